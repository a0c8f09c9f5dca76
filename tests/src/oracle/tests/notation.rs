//! What is printed can be read back.

use super::{flow, flow_of, world};
use crate::oracle::{NewFlow, World};

#[test]
fn worlds_are_read_back() {
    let text = "service web type LoadBalancer cluster 172.30.0.41 fd00:172::29 external 1.2.3.5 vips 1.2.3.4 \
                ranges 1.2.0.0/16 itp etp affinity 30 other-proxy ports http/TCP/80/30080 -/UDP/53\n\
                slice web-1 of web ports http/TCP/8080 nil/UDP/53 -/UDP endpoints \
                10.180.0.1,L 10.180.0.2,R,is=st,zones=a+b 10.180.0.3,is=,nodes=here\n\
                slice nobodys type FQDN headless";
    let made = world(text);
    assert_eq!(World::read(&made.to_string()), made);
    assert_eq!((made.services.len(), made.slices[0].endpoints.len()), (1, 3));
}

#[test]
fn flows_are_read_back() {
    for made in [
        flow("node", "172.30.0.41:80"),
        flow_of("SCTP", "ext", "[fd00:172::29]:80"),
    ] {
        assert_eq!(NewFlow::read(&made.to_string()), made);
    }
}
