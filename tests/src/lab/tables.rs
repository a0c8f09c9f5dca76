//! The pinned tables of a lab's agent, opened from outside: what they hold, whether or not an agent runs.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aya::maps::{Map, MapData};
use lb_common::layout::Choice;
use lb_userspace::kernel::Pins;
use lb_userspace::tables::{KernelTables, TableFamily, Tables as _};

use super::Lab;

impl Lab {
    /// A table, by its name.
    pub fn table(&self, name: &str) -> Result<Map> {
        let pin = Pins::new(self.pin_directory()).maps().join(name);
        let data = MapData::from_pin(&pin).with_context(|| format!("opening the table {}", pin.display()))?;
        Map::from_map_data(data).with_context(|| format!("{} is no table of Sluice's", pin.display()))
    }

    /// The tables of one family. Whoever writes to them takes the agent's part.
    pub fn tables<F: TableFamily>(&self) -> Result<KernelTables<F>> {
        KernelTables::open(|name| self.table(name))
    }

    /// All that is said in the tables of one family, by the label of each Service port: number, frontends, and for each scope its
    /// places with the numbers and records of their backends.
    pub fn table_dump<F: TableFamily>(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let tables = self.tables::<F>()?;
        let mut dump = BTreeMap::new();
        let frontends = tables.frontends()?;
        for (number, label) in tables.labels()? {
            let mut lines = vec![format!("number {number}")];
            let own = frontends.iter().filter(|(_, owner)| owner.number() == number);
            lines.extend(own.map(|(key, _)| format!("frontend {} {} {}", key.address, key.port.get(), key.proto)));
            lines[1..].sort();
            let service = tables.service(number);
            lines.push(format!("{:?} {:?}", service.rules, service.sets));
            for (name, scope) in [("cluster", service.cluster), ("local", service.local)] {
                lines.push(format!("{name} {:#x}", scope.0));
                if let Choice::Slots { base, len } = scope.choice() {
                    lines.extend((base..base + len).map(|place| {
                        let backend = tables.slot(place);
                        format!("  place {place}: {backend} {:?}", tables.backend(backend))
                    }));
                }
            }
            dump.insert(label.as_str().to_owned(), lines);
        }
        Ok(dump)
    }
}
