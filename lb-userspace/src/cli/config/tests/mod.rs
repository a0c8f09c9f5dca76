//! Files as people have them, what is said of each; the order of flags, environment and file; what is printed.

use std::fmt::Write as _;
use std::path::Path;

use clap::CommandFactory as _;
use rstest::rstest;

use super::*;

/// What is said of a file, as text.
fn report(text: &str) -> String {
    let understood = understand(text).unwrap_or_else(|reason| panic!("{reason}"));
    let mut report = String::new();
    for Finding {
        field,
        line,
        verdict,
        says,
    } in &understood.findings
    {
        writeln!(report, "{line}: {field}: {}: {says}", verdict.words()).unwrap();
    }
    let words: Vec<String> = understood.settings.iter().filter_map(word).collect();
    writeln!(report, "= sluice run {}", words.join(" ")).unwrap();
    report
}

/// `SLUICE_UPDATE_GOLDENS=1` writes what is said of the files; look at the difference.
#[rstest]
#[case("kubeadm-iptables")]
#[case("kubeadm-ipvs")]
#[case("kubeadm-nftables")]
#[case("managed-cloud")]
#[case("by-hand")]
fn what_is_said_of_kube_proxys_files(#[case] name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/config/tests");
    let read = |ending: &str| std::fs::read_to_string(folder.join(name).with_extension(ending)).unwrap_or_default();
    let found = report(&read("yaml"));
    if std::env::var_os("SLUICE_UPDATE_GOLDENS").is_some() {
        std::fs::write(folder.join(name).with_extension("txt"), &found).unwrap();
    }
    assert_eq!(found, read("txt"));
}

fn kube_proxy(fields: &str) -> String {
    format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{fields}")
}

fn own_format(fields: &str) -> String {
    format!("apiVersion: sluice.io/v1alpha1\nkind: SluiceConfiguration\n{fields}")
}

#[rstest]
#[case::kube_proxys_mode(kube_proxy("mode: userspace"), &["3: mode: iptables, ipvs or nftables is expected"])]
#[case::kube_proxys_detector(kube_proxy("detectLocalMode: Guess"), &["3: detectLocalMode: ClusterCIDR, NodeCIDR"])]
#[case::kube_proxys_range(kube_proxy("clusterCIDR: 10.0.0.0/33"), &["1: : --cluster-cidr 10.0.0.0/33: not a range"])]
#[case::kube_proxys_address(kube_proxy("bindAddress: eth0"), &["3: bindAddress: invalid value 'eth0'"])]
#[case::kube_proxys_list(kube_proxy("nodePortAddresses: 10.0.0.0/8"), &["3: nodePortAddresses: a list is expected"])]
#[case::kube_proxys_switch(kube_proxy("iptables:\n  masqueradeAll: 1"), &["4: iptables.masqueradeAll: true or false is expected"])]
#[case::a_bridge_without_a_name(kube_proxy("detectLocalMode: BridgeInterface"), &["1: : --detect-local-mode bridge-interface needs --pod-bridge-interface"])]
#[case::a_typing_mistake(own_format("clusterCIDR: [10.0.0.0/8]"), &["3: clusterCIDR: there is no such field; there are "])]
#[case::a_word_of_none(own_format("xdp: sometimes"), &["3: xdp: invalid value 'sometimes'"])]
#[case::a_number_out_of_range(own_format("flowsMax: 1"), &["3: flowsMax: invalid value '1'"])]
#[case::a_switch_that_is_none(own_format("masqueradeAll: often"), &["3: masqueradeAll: true or false is expected"])]
#[case::a_list_where_one_is_due(own_format("nodeName: [a, b]"), &["3: nodeName: a single value is expected"])]
#[case::an_address_of_no_server(own_format("apiServer: 192.0.2.10:6443"), &["1: : cannot use the API server's address"])]
#[case::everything_at_once(own_format("xdp: sometimes\nflowsMax: 1\nmetrics: off"), &["3: xdp: ", "4: flowsMax: ", "5: metrics: "])]
fn what_is_wrong_is_told_with_its_line(#[case] text: String, #[case] expected: &[&str]) {
    let understood = understand(&text).unwrap();
    let found: Vec<String> = understood
        .wrong()
        .map(|finding| format!("{}: {}: {}", finding.line, finding.field, finding.says))
        .collect();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}");
    }
}

#[rstest]
#[case::nothing("", "line 1: it is empty")]
#[case::no_yaml("a: [", "line ")]
#[case::twice("kind: a\nkind: b", "line 2: ")]
#[case::another_kind(
    "apiVersion: v1\nkind: Pod",
    "it is neither sluice.io/v1alpha1 SluiceConfiguration nor"
)]
#[case::another_config_map(
    "apiVersion: v1\nkind: ConfigMap\ndata: {a: b}",
    "this ConfigMap has no data that is"
)]
#[case::broken_inside(
    "apiVersion: v1\nkind: ConfigMap\ndata:\n  config.conf: \"kind: [KubeProxyConfiguration\"",
    "data[config.conf]: line "
)]
fn what_is_no_configuration_is_refused(#[case] text: &str, #[case] expected: &str) {
    let reason = understand(text).unwrap_err();
    assert!(reason.starts_with(expected), "{reason}");
}

/// What is deployed has to be understood by what is deployed.
#[rstest]
#[case::kustomize(include_str!("../../../../../deploy/kustomize/config.yaml"))]
#[case::helm(rendered_config_map(include_str!("../../../../../tests/goldens/deploy/helm-all.yaml")))]
fn what_is_deployed_is_good(#[case] text: &str) {
    let understood = understand(text).unwrap();
    assert_eq!(understood.wrong().next(), None);
    assert!(
        understood.settings.iter().any(|setting| setting.flag == "api-server"),
        "{understood:?}"
    );
}

fn rendered_config_map(golden: &str) -> &str {
    golden
        .split("---\n")
        .find(|document| document.contains("kind: SluiceConfiguration"))
        .unwrap()
}

/// The effective configuration of a command line, with this file.
fn effective(file: &str, words: &[&str]) -> String {
    let (matches, merged) = merged(file, words);
    print(matches.subcommand_matches("run").unwrap(), Some(&merged))
}

fn merged(file: &str, words: &[&str]) -> (ArgMatches, Merged) {
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), file).unwrap();
    let words: Vec<OsString> = ["sluice", "run"].iter().chain(words).map(Into::into).collect();
    let matches = Cli::command().get_matches_from(&words);
    let merged = merge(path.path(), words, matches.subcommand_matches("run").unwrap()).unwrap();
    (Cli::command().get_matches_from(&merged.words), merged)
}

#[test]
fn the_command_line_comes_before_the_file_and_the_file_before_defaults() {
    let file = own_format(
        "xdp: native\nflowsMax: 65536\nclusterCidr: [10.244.0.0/16, 'fd00::/48']\nmasqueradeAll: true\nresetRemoved: false",
    );
    let text = effective(&file, &["--xdp", "off"]);
    for line in [
        "xdp: \"off\" # command line",
        "flowsMax: 65536 # file",
        "clusterCidr: [\"10.244.0.0/16\", \"fd00::/48\"] # file",
        "masqueradeAll: true # file",
        "resetRemoved: false # file",
        "metricsBindAddress: \"127.0.0.1:10249\" # default",
        "pinDir: \"/sys/fs/bpf/sluice\" # default",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same() {
    let file = own_format(
        "xdp: native\noutwardDevices: [eth0, eth1]\nnodeportAddresses: [primary, 10.0.0.0/8]\nmasqueradeAll: true\nlog: 'lb_userspace=debug'",
    );
    let once = effective(&file, &["--node-name", "0123"]);
    let twice = effective(&once, &[]);
    let plain = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split(" # ").next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(plain(&once), plain(&twice));
    assert!(once.contains("nodeName: \"0123\""), "{once}");
    assert!(
        once.contains("nodeportAddresses: \"primary,10.0.0.0/8\" # file"),
        "{once}"
    );
}

#[test]
fn a_file_that_is_wrong_is_refused_whole() {
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), own_format("xdp: sometimes\nflowsMax: 1\n")).unwrap();
    let words: Vec<OsString> = ["sluice", "run"].map(Into::into).into();
    let matches = Cli::command().get_matches_from(&words);
    let error = merge(path.path(), words, matches.subcommand_matches("run").unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("can't be used, and nothing was touched:\n  line 3: xdp: "),
        "{error}"
    );
    assert!(error.contains("\n  line 4: flowsMax: "), "{error}");
}

#[test]
fn every_flag_but_those_about_files_has_a_field_of_its_own() {
    let fields: Vec<String> = flags(&RUN).map(|(_, long)| own::field_of(long)).collect();
    let unique: BTreeSet<&String> = fields.iter().collect();
    assert_eq!(unique.len(), fields.len());
    assert!(
        fields.contains(&"detectLocalMode".to_owned()) && fields.contains(&"pinDir".to_owned()),
        "{fields:?}"
    );
}
