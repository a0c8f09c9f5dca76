//! Every row of the behaviour reference (§7) in a sentence of our own, the proof that it needs, and where Sluice answers
//! otherwise on purpose.
//!
//! Here: the table. Not here: which tests there are (`claims`).

/// What a row has to be shown by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Any test of the agent: from objects to tables.
    Planner,
    /// A packet through the core and the loaded programs.
    Packet,
    /// Real sockets on a real stack.
    Stack,
    /// Any test of the health endpoints.
    Health,
}

impl Proof {
    /// For the page.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planner => "planner",
            Self::Packet => "packet",
            Self::Stack => "stack",
            Self::Health => "health",
        }
    }
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number.
    pub number: u16,
    /// What it says.
    pub says: &'static str,
    /// What its sub-cases are, by letters from `a`.
    pub cases: &'static [&'static str],
    /// What it has to be shown by.
    pub needs: Proof,
    /// How Sluice differs and why, if it does.
    pub differs: Option<(&'static str, &'static str)>,
}

impl Row {
    const fn cases(mut self, cases: &'static [&'static str]) -> Self {
        self.cases = cases;
        self
    }

    const fn differs(mut self, how: &'static str, why: &'static str) -> Self {
        self.differs = Some((how, why));
        self
    }

    /// The letters of its sub-cases.
    pub fn letters(&self) -> impl Iterator<Item = char> {
        ('a'..='z').take(self.cases.len())
    }
}

/// Rows that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// What they are about.
    pub title: &'static str,
    /// What is given in all of them.
    pub given: &'static str,
    /// The rows.
    pub rows: &'static [Row],
}

const fn row(number: u16, needs: Proof, says: &'static str) -> Row {
    Row {
        number,
        says,
        cases: &[],
        needs,
        differs: None,
    }
}

const fn packet(number: u16, says: &'static str) -> Row {
    row(number, Proof::Packet, says)
}

const fn planner(number: u16, says: &'static str) -> Row {
    row(number, Proof::Planner, says)
}

const fn health(number: u16, says: &'static str) -> Row {
    row(number, Proof::Health, says)
}

const NO_SWITCH: &str = "There is no switch for localhost. Nothing is opened for it that would need one: packets from outside \
                         never reach loopback, and only processes of the host are served there.";

/// What the three Services of the matrix are.
const POLICIES: &[&str] = &[
    "both policies Cluster",
    "externalTrafficPolicy Local",
    "internalTrafficPolicy Local",
];
/// The two ways in which a Service with endpoints that go away is dialled.
const DIALLED: &[&str] = &["a pod dials the ClusterIP", "an outside client dials the VIP"];

/// All rows.
pub const SECTIONS: &[Section] = &[
    Section {
        title: "ClusterIPs",
        given: "Pods are in the cluster's range, and so are endpoints.",
        rows: &[
            packet(1, "a pod reaches the only endpoint, with its own address"),
            packet(2, "a pod that is the only endpoint itself reaches itself, masqueraded"),
            packet(3, "two endpoints, here and elsewhere: both get connections"),
            packet(4, "the endpoint's port is the target port, whatever the Service's is"),
            packet(5, "one number for three protocols: TCP goes to TCP's target port"),
            packet(6, "one number for three protocols: UDP goes to UDP's"),
            packet(7, "one number for three protocols: SCTP goes to SCTP's"),
            packet(8, "UDP to a port that is only served for TCP is rejected (as nftables does)"),
            packet(9, "a port that this ClusterIP does not have is rejected (as nftables does)"),
            packet(10, "an address in a known ServiceCIDR that no Service has is dropped (as nftables does)"),
        ],
    },
    Section {
        title: "No endpoints",
        given: "A load balancer's Service with an ExternalIP and a NodePort, and no endpoint anywhere: clients are told at once.",
        rows: &[
            packet(11, "a pod dials the ClusterIP: rejected"),
            packet(12, "a pod dials the ExternalIP: rejected"),
            packet(13, "an outside client dials the ExternalIP: rejected"),
            packet(14, "a pod dials the NodePort: rejected"),
            packet(15, "an outside client dials the NodePort: rejected"),
            packet(16, "a pod dials the VIP: rejected"),
            packet(17, "an outside client dials the VIP: rejected"),
        ],
    },
    Section {
        title: "Source ranges",
        given: "Two VIPs, one endpoint, two ranges: one holds the node, one the good outside clients; blanks around them are kept.",
        rows: &[
            packet(18, "the ClusterIP is open to pods that are in no range"),
            packet(19, "the NodePort serves a good client, masqueraded"),
            packet(20, "the NodePort serves a bad client, too: ranges are for VIPs"),
            packet(21, "the first VIP serves a good client, masqueraded"),
            packet(22, "the second VIP serves a good client, masqueraded"),
            packet(23, "the first VIP drops a bad client"),
            packet(24, "the second VIP drops a bad client"),
            packet(25, "the first VIP drops a pod that is in no range"),
            packet(26, "the second VIP drops a pod that is in no range"),
            packet(27, "the node, which is in a range, reaches the first VIP, masqueraded"),
            packet(28, "the node reaches the second VIP, masqueraded"),
            packet(29, "the first VIP as source reaches itself: where the node is allowed, its VIPs are"),
            packet(30, "the second VIP as source reaches itself"),
        ],
    },
    Section {
        title: "Where NodePorts are",
        given: "Endpoints here and elsewhere; the node has a second address. Sluice has one mode, and `nodePortAddresses`.",
        rows: &[
            packet(31, "whatever the list says, pods reach the ClusterIP"),
            packet(32, "an outside client reaches the node's own address, masqueraded"),
            packet(33, "the node reaches its own address, masqueraded"),
            packet(34, "nothing listed: the second address serves, too"),
            packet(35, "nothing listed: a host process reaches 127.0.0.1, and nobody else does"),
            packet(36, "localhost switched off: 127.0.0.1 is not served").differs("127.0.0.1 is served for host processes", NO_SWITCH),
            packet(37, "only the first address's range and 127.0.0.1 listed: the second address is not served"),
            packet(38, "the same with localhost switched off: 127.0.0.1 is not served")
                .differs("127.0.0.1 is served for host processes, since it is listed", NO_SWITCH),
            packet(39, "both ranges listed, beside one of the other family: the second address serves"),
            packet(40, "[::1] is never served").differs(
                "[::1] is served for host processes as 127.0.0.1 is",
                "IPv6 needs no routing from loopback: the packet is translated where the process sends it.",
            ),
            packet(41, "nothing listed, IPv6: the second address serves, too"),
            packet(42, "the IPv6 range listed does not hold the second address: not served"),
            packet(43, "the default is the node's primary address only: the second is not served").differs(
                "the default is every address; `primary` may be said",
                "Whoever comes from iptables or IPVS keeps what was reachable. One word restores the narrow default.",
            ),
            packet(44, "a list that covers the second address: it serves"),
        ],
    },
    Section {
        title: "externalTrafficPolicy Local",
        given: "One endpoint here, one elsewhere.",
        rows: &[
            packet(45, "a pod dials the ClusterIP: both"),
            packet(46, "a pod dials the ExternalIP: both, not masqueraded"),
            packet(47, "an outside client dials the ExternalIP: the one here, with the client's address"),
            packet(48, "a pod dials the VIP: both, not masqueraded"),
            packet(49, "an outside client dials the VIP: the one here, with the client's address"),
            packet(50, "a pod dials the NodePort: both, not masqueraded"),
            packet(51, "an outside client dials the NodePort: the one here, with the client's address"),
        ],
    },
    Section {
        title: "externalTrafficPolicy Cluster",
        given: "One endpoint here, one elsewhere.",
        rows: &[
            packet(52, "a pod dials the ClusterIP: both, not masqueraded"),
            packet(53, "a pod dials the ExternalIP: both, masqueraded"),
            packet(54, "an outside client dials the ExternalIP: both, masqueraded"),
            packet(55, "a pod dials the VIP: both, masqueraded"),
            packet(56, "an outside client dials the VIP: both, masqueraded"),
            packet(57, "a pod dials the NodePort: both, masqueraded"),
            packet(58, "an outside client dials the NodePort: both, masqueraded"),
        ],
    },
    Section {
        title: "Who is masqueraded",
        given: "Three clients, three frontends, three Services: one endpoint here, one elsewhere.",
        rows: &[
            packet(59, "a pod dials the ClusterIP: never masqueraded; internal policy Local leaves the endpoint here").cases(POLICIES),
            packet(60, "a pod dials the NodePort: both endpoints, masqueraded unless the external policy is Local").cases(POLICIES),
            packet(61, "a pod dials the VIP: as its NodePort").cases(POLICIES),
            packet(62, "the node dials the ClusterIP: masqueraded; internal policy Local leaves the endpoint here").cases(POLICIES),
            packet(63, "the node dials the NodePort: both endpoints, always masqueraded").cases(POLICIES),
            packet(64, "the node dials the VIP: as its NodePort").cases(POLICIES),
            packet(65, "an outside client dials the ClusterIP: masqueraded; internal policy Local leaves the endpoint here").cases(POLICIES),
            packet(66, "an outside client dials the NodePort: masqueraded; external policy Local: the endpoint here, not masqueraded").cases(POLICIES),
            packet(67, "an outside client dials the VIP: as its NodePort").cases(POLICIES),
            packet(68, "without a way to tell local pods nobody who dials a ClusterIP is masqueraded"),
            packet(69, "without a way to tell local pods, external policy Local leaves pods the endpoint here only"),
            packet(70, "masquerade-all: pods that dial a ClusterIP are masqueraded, too"),
            packet(71, "masquerade-all and no way to tell local pods: both of it"),
        ],
    },
    Section {
        title: "internalTrafficPolicy",
        given: "A pod dials a ClusterIP.",
        rows: &[
            packet(72, "Cluster, endpoints on several nodes: all of them"),
            packet(73, "Local, one endpoint here: that one"),
            packet(74, "Local, two here: both"),
            packet(75, "Local, none here but some elsewhere: dropped"),
            packet(76, "either, once the slice is deleted: rejected"),
        ],
    },
    Section {
        title: "Endpoints that go away",
        given: "A load balancer's Service; endpoints that are ready, serving while terminating, or only terminating.",
        rows: &[
            packet(77, "external policy Local: as long as one here is ready, those that terminate get nothing").cases(DIALLED),
            packet(78, "external policy Local, here only terminating ones, one ready elsewhere: the lists fall back apart").cases(DIALLED),
            packet(79, "external policy Local, only a terminating one elsewhere: pods reach it, outside clients are dropped").cases(DIALLED),
            packet(80, "external policy Local, nobody serves: rejected").cases(DIALLED),
            packet(81, "external policy Cluster: ready ones only").cases(DIALLED),
            packet(82, "external policy Cluster, none is ready: all that still serve").cases(DIALLED),
            packet(83, "external policy Cluster, one elsewhere still serves: that one").cases(DIALLED),
            packet(84, "external policy Cluster, nobody serves: rejected").cases(DIALLED),
            packet(85, "either, once the slice is deleted: rejected").cases(DIALLED),
        ],
    },
    Section {
        title: "Which endpoints are in which list",
        given: "Hints, states and policies as each row says.",
        rows: &[
            planner(86, "every ready endpoint has zone hints: those for the node's zone"),
            planner(87, "one ready endpoint has no hint: all"),
            planner(88, "no hint names the node's zone: all"),
            planner(89, "the node has no zone, or an empty one: all"),
            planner(90, "unready endpoints don't count: the ready one of the zone"),
            planner(91, "all of the zone are unready: the ready ones of other zones"),
            planner(92, "an endpoint may be for several zones"),
            planner(93, "external policy Local: zones filter the cluster's list only"),
            planner(94, "internal policy Local: the same"),
            planner(95, "the lists overlap, and what is in either is needed here"),
            planner(96, "internal policy Local, no endpoints: none anywhere"),
            planner(97, "internal policy Local, only elsewhere: none here, some anywhere"),
            planner(98, "internal policy Local: the one here"),
            planner(99, "all unready: none anywhere"),
            planner(100, "all serving while terminating: all of them"),
            planner(101, "internal Local, external Cluster: each has its own list"),
            planner(102, "both Local, ready ones elsewhere only: the cluster's list is filled for those who may use it"),
            planner(103, "both Local, terminating ones elsewhere only: the same"),
            planner(104, "the lists fall back to terminating ones apart from each other"),
            planner(105, "external policy Local without an external address: no such list"),
            planner(106, "node hints that name this node go before zone hints"),
            planner(107, "node hints that name others only: zone hints decide"),
            planner(108, "one endpoint without node hints: zone hints decide"),
        ],
    },
    Section {
        title: "Services and slices come and go",
        given: "What the agent makes of changes.",
        rows: &[
            planner(109, "every port of every Service is one of ours; a health port only for load balancers with Local policy"),
            planner(110, "Services and ports that are removed are gone"),
            planner(111, "headless Services are none of ours").cases(&["with ports", "without"]),
            planner(112, "nor are DNS aliases, even with an address and ports"),
            planner(113, "a health port follows type and policy"),
            planner(114, "an ingress address is served by what its ipMode says").cases(&["Proxy: not", "VIP: it is", "unset: it is"]),
            planner(115, "addresses and ranges with leading zeros are meant in decimal"),
            planner(116, "ServiceCIDRs of two families: each family has its own"),
            planner(117, "metric of missing local endpoints: nothing is counted where there is one"),
            planner(118, "metric of missing local endpoints: internal policy, only remote ones"),
            planner(119, "metric of missing local endpoints: external policy, only remote ones"),
            planner(120, "metric of missing local endpoints: no endpoint at all is not counted"),
            planner(121, "what has not changed is not written again"),
            health(122, "NodePorts on loopback only: the health port is reachable, and gone with its Service").differs(
                "no rule is made for it",
                "Nothing that Sluice installs could keep a client from the port.",
            ),
            row(123, Proof::Stack, "a restarted agent finds what is there and takes nothing away"),
            packet(124, "endpoints that go and come back: rejected, then served, and nothing is left over"),
        ],
    },
    Section {
        title: "UDP flows when endpoints change",
        given: "A Service with every frontend; one endpoint serves, others do not or are gone. Sluice does not delete: a \
                datagram whose entry leads to nobody is led to somebody.",
        rows: &[
            packet(125, "a flow to an endpoint that serves stays"),
            packet(126, "a flow to one that does not is chosen anew"),
            packet(127, "a flow to another port of the Service's address is left alone"),
            packet(128, "a flow through the NodePort to an endpoint that serves stays"),
            packet(129, "a flow through the NodePort to one that does not is chosen anew"),
            packet(130, "TCP and SCTP flows stay, whatever becomes of the endpoint"),
            packet(131, "a flow from before there was a Service becomes the Service's"),
            packet(132, "a flow from before to another port stays as it is"),
            packet(133, "a Service with no serving endpoint lets its flows go").differs(
                "they are let go: the fixed form",
                "Up to Kubernetes 1.36 they were kept, and senders that never pause lost everything for hours.",
            ),
            packet(134, "a deleted Service lets its flows go").differs(
                "they are let go: the fixed form",
                "Before August 2026 they were kept, with the same harm.",
            ),
            packet(135, "the same address with another port is another endpoint"),
            planner(136, "of a million flows only those that lead to nobody are touched"),
        ],
    },
    Section {
        title: "Health",
        given: "`/healthz`, `/livez` and the health port of a Service with Local policy.",
        rows: &[
            health(137, "started, nothing to do: healthy; the Service's port waits for a local ready endpoint"),
            health(138, "a change waits for less than a minute: healthy"),
            health(139, "an IPv4 change waits longer: unhealthy, and says which family; the Service's port fails, too"),
            health(140, "then it is done: healthy"),
            health(141, "the node goes away or is unknown: not eligible, but alive; the Service's port does not mind"),
            health(142, "only terminating endpoints here: the Service's port fails"),
            health(143, "one pod behind two ports counts once"),
        ],
    },
];

/// All rows, one after the other.
pub fn all() -> impl Iterator<Item = &'static Row> {
    SECTIONS.iter().flat_map(|section| section.rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_without_a_gap() {
        let numbers: Vec<u16> = all().map(|row| row.number).collect();
        assert_eq!(numbers, (1..=143).collect::<Vec<_>>());
    }
}
