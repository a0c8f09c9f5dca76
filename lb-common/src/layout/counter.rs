//! What the datapath counts besides drops. Counted where something begins, never for each established packet.

macro_rules! counters {
    ($($variant:ident = $number:literal, $name:literal, $meaning:literal;)*) => {
        /// A place in the counter table.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Counter { $(#[doc = $meaning] $variant = $number,)* }

        impl Counter {
            /// Number of counters; numbers are dense from 0.
            pub const COUNT: usize = [$($number),*].len();
            /// All counters by number.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant),*];

            /// The name used in metrics and documents.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What is counted.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

counters! {
    FlowsCreated = 0, "flows_created", "Flows for which a backend was chosen.";
    FlowsReselected = 1, "flows_reselected", "Flows that were given another backend because theirs stopped serving.";
    FlowsHealed = 2, "flows_healed", "Flow entries written again because their counterpart had been evicted.";
    PortsTranslated = 3, "ports_translated", "Flows whose source port was changed because the tuple was taken.";
    EventsLost = 4, "events_lost", "Events that found the ring buffer full or the rate limit reached.";
    ErrorsTranslated = 5, "errors_translated", "ICMP errors about translated packets that were translated back.";
    AffinityKept = 6, "affinity_kept", "Connections that went to the backend that their client had before.";
    FlowsMasqueraded = 7, "flows_masqueraded", "Flows that go to their backend with an address of this node.";
    WaysFound = 8, "ways_found", "Next hops that XDP found: every two seconds at most for each flow in use, and after every change of the routing.";
    WaysLeft = 9, "ways_left", "Next hops that XDP looked for and left to the stack: no route or neighbour yet, or a device that it can't send by.";
    EchoesAnswered = 10, "echoes_answered", "Pings to service addresses that were answered.";
    FlowsTunnelled = 11, "flows_tunnelled", "Flows that go to their backend's node in a tunnel, and are answered from there.";
    TunnelStrangers = 12, "tunnel_strangers", "Packets for a service address in a tunnel from somebody who is no node of the cluster: left to the host as they were.";
    SocketConnects = 13, "socket_connects", "TCP connections that were given a backend when their socket was connected.";
    SocketPeers = 14, "socket_peers", "Service addresses for which an unconnected UDP socket was given a backend.";
    FlowsSplit = 15, "flows_split", "Flows that XDP did in one step, until the stack got one of their packets: its hooks take two.";
    FlowsDeferred = 16, "flows_deferred", "New flows that were left to netfilter: before `sluice takeover`, or after `sluice retire`.";
}
