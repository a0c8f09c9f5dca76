{{- define "sluice.selector" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "sluice.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "sluice.address" -}}
{{- if contains ":" .host }}[{{ .host }}]{{ else }}{{ .host }}{{ end }}:{{ .port }}
{{- end }}

{{- define "sluice.config" -}}
apiVersion: sluice.io/v1alpha1
kind: SluiceConfiguration
apiServer: {{ required "apiServer is needed: the URL of the API server itself, such as https://192.0.2.10:6443" .Values.apiServer | quote }}
healthzBindAddress: {{ printf "0.0.0.0:%v" .Values.health.port | quote }}
metricsBindAddress: {{ if .Values.metrics.bindAddress }}{{ include "sluice.address" (dict "host" .Values.metrics.bindAddress "port" .Values.metrics.port) | quote }}{{ else }}""{{ end }}
{{- with .Values.config }}
{{ toYaml . }}
{{- end }}
{{- end }}
