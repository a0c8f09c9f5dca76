//! What a row is given: Services, backends and the node, said in names, and turned into writes that a host world and a
//! kernel world do alike.

use lb_common::layout::{Backend, BackendFlags, FrontendKey, Port, Proto, Scope, Service};

use super::names::{Named, endpoint};

/// One thing that happens to the tables between packets.
#[derive(Clone, Debug)]
pub enum Change {
    /// The frontend is served by these backends, one slot each: `("web:80", ["pod:8080 local", "pod2:8080"])`.
    Serve(String, Vec<String>),
    /// Nobody in the whole cluster serves the frontend.
    Reject(String),
    /// Somebody serves the frontend, but nobody whom the policy allows here.
    Deny(String),
    /// The Service has no scope for cluster-internal frontends.
    NoScope(String),
    /// The frontend's range names slots that were never written.
    Dangle(String),
    /// The frontend is gone.
    Remove(String),
    /// The backend's record is taken out of use.
    Withdraw(String),
    /// The first backend's number stands for the second backend from now on.
    Reuse(String, String),
    /// The node has an address to masquerade with.
    Node,
    /// A flow entry was evicted.
    Evict(String),
    /// The kernel recycled a flow entry while somebody reads it: what it says is not about its key.
    Garble(String),
}

/// One write to the tables of a family.
#[derive(Clone, Copy, Debug)]
pub enum Write<F: Named> {
    /// A frontend of this service, or none any more.
    Frontend(FrontendKey<F::Addr>, Option<u32>),
    /// A service record.
    Service(u32, Service),
    /// A backend number in a slot.
    Slot(u32, u32),
    /// A backend record.
    Backend(u32, Backend<F::Addr>),
    /// The node's address.
    Node(F::Addr),
    /// A flow entry that goes.
    Evict(lb_common::layout::FlowKey<F::Addr>),
    /// A flow entry whose contents change under the reader.
    Garble(lb_common::layout::FlowKey<F::Addr>),
}

/// Who has which number. Frontends, backends and slots are numbered as they come; a range is never written twice.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    services: Vec<String>,
    backends: Vec<String>,
    slots: u32,
}

impl Scene {
    /// The writes of a change, in the order in which the agent does them.
    ///
    /// # Panics
    /// If the change names somebody whom nobody knows.
    pub fn writes<F: Named>(&mut self, change: &Change, proto: Proto) -> Vec<Write<F>> {
        match change {
            Change::Serve(frontend, backends) => self.serve(frontend, backends, proto),
            Change::Reject(frontend) => self.publish(frontend, Scope::REJECT, proto),
            Change::Deny(frontend) => self.publish(frontend, Scope::DROP, proto),
            Change::NoScope(frontend) => self.publish(frontend, Scope::ABSENT, proto),
            Change::Dangle(frontend) => {
                self.slots += 1;
                let scope = Scope::slots(self.slots - 1, 1);
                self.publish(frontend, scope, proto)
            }
            Change::Remove(frontend) => vec![Write::Frontend(frontend_key::<F>(frontend, proto), None)],
            Change::Withdraw(backend) => {
                let number = number_of(&mut self.backends, backend) + 1;
                let (address, port) = backend_address::<F>(backend);
                vec![Write::Backend(
                    number,
                    Backend {
                        address,
                        port,
                        ..Backend::default()
                    },
                )]
            }
            Change::Reuse(old, new) => {
                let number = number_of(&mut self.backends, old) + 1;
                new.clone_into(&mut self.backends[number as usize - 1]);
                let (address, port) = backend_address::<F>(new);
                vec![Write::Backend(
                    number,
                    Backend {
                        address,
                        port,
                        flags: BackendFlags::ACTIVE,
                        ..Backend::default()
                    },
                )]
            }
            Change::Node => vec![Write::Node(F::named("node"))],
            Change::Evict(tuple) => vec![Write::Evict(F::key(tuple, proto))],
            Change::Garble(tuple) => vec![Write::Garble(F::key(tuple, proto))],
        }
    }

    fn serve<F: Named>(&mut self, frontend: &str, backends: &[String], proto: Proto) -> Vec<Write<F>> {
        let base = self.slots;
        let mut writes = Vec::new();
        for text in backends {
            let (backend, local) = text.split_once(' ').unwrap_or((text, ""));
            let flags = match local {
                "local" => BackendFlags::ACTIVE.with(BackendFlags::LOCAL),
                "" => BackendFlags::ACTIVE,
                other => panic!("a backend is not {other}"),
            };
            let number = number_of(&mut self.backends, backend) + 1;
            let (address, port) = backend_address::<F>(backend);
            writes.push(Write::Backend(
                number,
                Backend {
                    address,
                    port,
                    flags,
                    ..Backend::default()
                },
            ));
            writes.push(Write::Slot(self.slots, number));
            self.slots += 1;
        }
        writes.extend(self.publish::<F>(frontend, Scope::slots(base, backends.len() as u32), proto));
        writes
    }

    fn publish<F: Named>(&mut self, frontend: &str, internal: Scope, proto: Proto) -> Vec<Write<F>> {
        let number = number_of(&mut self.services, frontend);
        let service = Service {
            internal,
            ..Service::default()
        };
        vec![
            Write::Service(number, service),
            Write::Frontend(frontend_key::<F>(frontend, proto), Some(number)),
        ]
    }
}

fn number_of(names: &mut Vec<String>, name: &str) -> u32 {
    let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    });
    at as u32
}

fn frontend_key<F: Named>(text: &str, proto: Proto) -> FrontendKey<F::Addr> {
    let (address, port) = backend_address::<F>(text);
    FrontendKey::new(address, port, proto)
}

fn backend_address<F: Named>(text: &str) -> (F::Addr, Port) {
    let (address, port) = endpoint(text, F::VERSION);
    (
        F::from_ip(address).unwrap_or_else(|| panic!("{text} is of another family")),
        Port::new(port),
    )
}
