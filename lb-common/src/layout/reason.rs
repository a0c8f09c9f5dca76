//! Why a packet was dropped: the only list. Kernel programs count and report by it, `docs/drop-reasons.md` and
//! `sluice status` print it.

macro_rules! reasons {
    ($($(#[$attr:meta])* $variant:ident = $number:literal, $name:literal, $meaning:literal, $remedy:literal;)*) => {
        /// Why a packet was dropped or refused.
        #[repr(u16)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum DropReason { $($(#[$attr])* #[doc = $meaning] $variant = $number,)* }

        impl DropReason {
            /// Number of reasons; numbers are dense from 0.
            pub const COUNT: usize = [$($number),*].len();
            /// All reasons by number.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant),*];

            /// The name used as metric label and in documents.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What a person can do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }

            /// The reason with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    NoEndpoint = 0, "no_endpoint",
        "The Service has no usable endpoint in the whole cluster; the client was told by ICMP port unreachable.",
        "Check that the Service's selector matches pods and that they are ready: kubectl get endpointslices.";
    NoLocalEndpoint = 1, "no_local_endpoint",
        "The Service's traffic policy is Local, endpoints exist elsewhere but none on this node.",
        "Run an endpoint on this node, or set the traffic policy to Cluster.";
    RejectLimited = 2, "reject_limited",
        "The Service has no usable endpoint, and the limit of ICMP answers per second was reached.",
        "A client keeps trying a Service without endpoints; see no_endpoint.";
    BackendMissing = 3, "backend_missing",
        "A published range names a slot or a backend that is not there. This is a fault of Sluice.",
        "Restart the agent, which writes the tables anew, and report it with the output of sluice status -o json.";
    NoSourcePort = 4, "no_source_port",
        "No free source port was found for a second connection between the same two addresses.",
        "One client holds very many connections to one backend; add endpoints or client addresses.";
    FlowTableFull = 5, "flow_table_full",
        "The kernel refused to create a flow entry.",
        "Raise --flows-max; see the fill of the flow tables in sluice status.";
    RewriteFailed = 6, "rewrite_failed",
        "The kernel refused to change the packet after the decision was taken.",
        "The packet is malformed or the kernel is out of memory; see dmesg.";
    SourceDenied = 7, "source_denied",
        "A client outside the Service's loadBalancerSourceRanges dialled its load-balancer address.",
        "Nothing, if the client is meant to be kept out; otherwise add its range to the Service.";
    UnknownPort = 8, "unknown_port",
        "A ClusterIP was dialled at a port or protocol that its Service does not serve; the client was told by ICMP port unreachable.",
        "Check the port that the client uses against the Service's ports.";
    UnknownAddress = 9, "unknown_address",
        "An address inside a ServiceCIDR was dialled that no Service has.",
        "The Service was removed, or the client has a stale address: check its DNS answers.";
    WouldLoop = 10, "would_loop",
        "A packet to a port that a load-balancer address or ExternalIP does not serve would have left by the device that it came from.",
        "Nothing: the router that sends this address here would get it back until its time to live ends.";
    EndpointRemoved = 11, "endpoint_removed",
        "A TCP connection's endpoint is gone for good, and the client was told by a reset.",
        "Nothing: the client connects anew. It is switched on by --reset-removed or the Service's annotation.";
    SctpFragment = 12, "sctp_fragment",
        "An SCTP packet in fragments needed another port, for which its checksum can't be corrected.",
        "Let the sender keep to the path's MTU (Linux does), or give the Service equal port and targetPort.";
    TunnelMalformed = 13, "tunnel_malformed",
        "A packet for a Service came in a tunnel from another node, and what the tunnel carried is no whole packet of TCP, UDP or SCTP.",
        "Compare the Sluice versions of the nodes; nothing but a node's agent should send such packets.";
    TunnelSpoofed = 14, "tunnel_spoofed",
        "A packet for a Service came in a tunnel from another node, with a client's address that no client can have: of loopback, a group, or this node.",
        "Somebody uses that node to forge packets, or has forged the tunnel: look where it comes from.";
    TunnelNested = 15, "tunnel_nested",
        "A packet for a Service came in a tunnel from another node inside which there was another tunnel.",
        "A tunnel of something else carries packets to a service address; nothing on a node should.";
    TunnelUnserved = 16, "tunnel_unserved",
        "A packet came in a tunnel from another node for a port that no Service serves, as this node knows them.",
        "Nothing, if the Service has just come or gone; otherwise see in sluice status whether this node's agent hears of changes.";
    TunnelTooBig = 17, "tunnel_too_big",
        "A packet did not fit on the way to the endpoint's node with a tunnel's headers around it; its sender was told by ICMP how much does.",
        "Nothing: the sender's stack keeps to it. A larger MTU between the nodes avoids it.";
    TunnelNoRoute = 18, "tunnel_no_route",
        "There is no route to the endpoint's node, to which an open connection's packets go in a tunnel.",
        "Look at the node's routes: ip route get, with the address of the other node.";
    NodePortTaken = 19, "node_port_taken",
        "A process of the host wanted to listen at a port that is a Service's NodePort, and got EADDRINUSE: the Service would take its packets.",
        "Let the process listen at another port, or give the Service another nodePort.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_lead_back_to_the_reason() {
        for (number, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert_eq!(DropReason::from_number(number as u16), Some(reason));
            assert!(reason.meaning().ends_with('.') && reason.remedy().ends_with('.'));
        }
        assert_eq!(DropReason::from_number(DropReason::COUNT as u16), None);
    }
}
