//! Why asking the API server came to nothing, and what a person can do about it.
//!
//! Not here: for how long it is remembered (`complaints`), what is done next (`follow`).

use std::time::Duration;

/// What happened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    /// No answer.
    #[error("{0}")]
    NoAnswer(Box<str>),
    /// Another answer than 200, or an error as an event of a watch.
    #[error("the API server answers {code} {message}")]
    Refused {
        code: u16,
        message: Box<str>,
        retry_after: Option<Duration>,
    },
    /// Nothing came for a while.
    #[error("the API server sent nothing for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The connection broke amid an answer.
    #[error("the connection broke: {0}")]
    Cut(Box<str>),
    /// More than any object has.
    #[error("an answer has more than {0} octets")]
    TooLong(usize),
    /// No JSON, or nothing that belongs there.
    #[error("an answer was not understood: {0}")]
    NotUnderstood(Box<str>),
    /// A list without a resource version.
    #[error("a list has no metadata.resourceVersion")]
    NoVersion,
}

impl Cause {
    /// The server forgot what it was asked to go on from (410 Gone): nothing is wrong, all is listed anew.
    pub(super) fn is_gone(&self) -> bool {
        self.code() == Some(410)
    }

    /// With which code the server refused, if it did.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The server doesn't let us, or has no such thing.
    pub(super) fn is_denied(&self) -> bool {
        matches!(self.code(), Some(403 | 404))
    }

    /// What a person can do about it.
    pub(super) fn remedy(&self) -> &'static str {
        let code = match self {
            Self::Refused { code, .. } => *code,
            Self::NoAnswer(_) => {
                return "Is the API server running and its address right? The address must not be the ClusterIP of the \
                        Service kubernetes, which this agent serves: name the server itself by --api-server URL \
                        (SLUICE_API_SERVER)";
            }
            Self::Stalled(_) => return "Is it overloaded, or the network between? It is asked again",
            Self::Cut(_) => return "It is resumed where it broke off",
            Self::TooLong(_) => return "Is it an API server? It is asked again",
            Self::NotUnderstood(_) => return "Is its version supported? It is asked again",
            Self::NoVersion => return "The server does not support watching; is it an API server?",
        };
        match code {
            401 => "The credentials were refused; is the service account token or the kubeconfig out of date?",
            403 => {
                "The service account needs a ClusterRole with get, list and watch on services, nodes, \
                 endpointslices.discovery.k8s.io and servicecidrs.networking.k8s.io"
            }
            404 => "The server does not know this kind; Kubernetes 1.21 or later is needed",
            429 | 500.. => "The server is overloaded or starting; it is asked again",
            _ => "It is asked again",
        }
    }
}
