//! Two nodes behind a router: what reaches NodePorts, ExternalIPs and load-balancer VIPs from outside, from pods and from host
//! processes of both nodes, who answers, and whom the backend sees asking. Rows with a number are those of kube-proxy's own tests.
//!
//! One node and ClusterIPs alone are in `lab_reach`, `lab_sizes` and `lab_refusals`; nginx behind a VIP is in `lab_ingress`.

mod affinity;
mod matrix;
mod node_ports;
mod policies;
mod ranges;
mod rows;
mod same_port;
mod scene;
mod sizes;
mod topology;
