//! A cluster as source: the API client against an API server, with what goes wrong between the two.
//!
//! The server is `tests::api_server`. What it can't say of itself is said by a real kube-apiserver, if `KUBECONFIG` names one: the
//! tests in `follow` then run against that, too. What becomes of objects that no server should have is in `bad_input`.

mod bad_input;
mod events;
mod faults;
mod follow;
mod refusals;
mod rights;
mod scene;
