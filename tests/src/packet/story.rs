//! Playing what a tape tells: tables to begin with, then packets and happenings, on a host world alone or on both sides.

use anyhow::Result;
use lb_common::{
    datapath::Hook,
    layout::{FlowKey, Proto},
};

use super::{
    encode::Link,
    host::{HostFamily, HostWorld},
    random::{Happening, beginning, next},
    scene::{Change, Scene},
    side::{Shot, Side},
    sketch::Sketch,
    tape::Tape,
};

/// A packet of a story.
#[derive(Clone, Debug)]
pub struct Scrap {
    /// The hook.
    pub hook: Hook,
    /// The kind of device.
    pub link: Link,
    /// The packet before it may have been spoilt.
    pub sketch: Sketch,
    /// The frame.
    pub frame: Vec<u8>,
}

impl Scrap {
    /// The frame at its hook.
    #[must_use]
    pub fn shot(&self) -> Shot<'_> {
        Shot {
            hook: self.hook,
            link: self.link,
            frame: &self.frame,
        }
    }
}

/// A host world, and another side to which the same happens.
pub struct Stage<'a, F: HostFamily> {
    /// The host world.
    pub host: HostWorld,
    /// The other side.
    pub other: Option<&'a mut dyn Side<F>>,
    scene: Scene,
}

impl<'a, F: HostFamily> Stage<'a, F> {
    /// Tables as the tape begins.
    ///
    /// # Errors
    /// If the other side refuses.
    pub fn set(tape: &mut Tape<'_>, other: Option<&'a mut dyn Side<F>>) -> Result<Self> {
        let mut stage = Self {
            host: HostWorld::default(),
            other,
            scene: Scene::default(),
        };
        for change in beginning(tape) {
            stage.change(&change)?;
        }
        Ok(stage)
    }

    /// The same change for every protocol, on both sides.
    ///
    /// # Errors
    /// If the other side refuses.
    pub fn change(&mut self, change: &Change) -> Result<()> {
        for proto in [Proto::TCP, Proto::UDP, Proto::SCTP] {
            for write in self.scene.writes::<F>(change, proto) {
                self.both(|side| side.write(&write))?;
            }
        }
        Ok(())
    }

    fn both(&mut self, action: impl Fn(&mut dyn Side<F>) -> Result<()>) -> Result<()> {
        action(&mut self.host)?;
        match &mut self.other {
            Some(other) => action(&mut **other),
            None => Ok(()),
        }
    }

    /// Lets things happen up to the next packet.
    ///
    /// # Errors
    /// If the other side refuses.
    pub fn next_packet(&mut self, tape: &mut Tape<'_>) -> Result<Scrap> {
        loop {
            let happening = {
                let flows = F::cabinet(&self.host).flows.borrow();
                next(tape, F::VERSION, &|tape| nth::<F>(flows.keys(), tape))
            };
            match happening {
                Happening::Change(change) => self.change(&change)?,
                Happening::Later(by) => self.both(|side| side.age(by))?,
                Happening::LimitRejects(tokens) => self.both(|side| side.limit_rejects(tokens))?,
                Happening::Packet {
                    hook,
                    link,
                    sketch,
                    frame,
                } => {
                    return Ok(Scrap {
                        hook,
                        link,
                        sketch: *sketch,
                        frame,
                    });
                }
            }
        }
    }
}

/// One of the keys.
fn nth<'k, F: HostFamily>(
    mut keys: impl ExactSizeIterator<Item = &'k FlowKey<F::Addr>>,
    tape: &mut Tape<'_>,
) -> Option<String> {
    let len = keys.len();
    (len > 0)
        .then(|| tape.below(len))
        .and_then(|at| keys.nth(at))
        .map(|key| F::tuple(key).to_string())
}
