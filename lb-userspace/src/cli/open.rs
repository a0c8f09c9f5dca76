//! Opening the pinned tables to read from them.

use anyhow::{Result, bail};
use lb_common::layout::{Node, names};

use super::Place;
use crate::{
    kernel::{Pins, open_pinned_map},
    tables::{DefersTable, FlowTable, KernelTables, NodeTable, PeerTable, Stats, TableFamily},
};

impl Place {
    pub(super) fn pins(&self) -> Pins {
        Pins::new(&self.pin_dir)
    }

    fn existing_pins(&self) -> Result<Pins> {
        let pins = self.pins();
        if !pins.exist() {
            bail!(
                "no datapath is pinned in {}: start one with `sluice run`, or name its folder with --pin-dir",
                self.pin_dir.display()
            );
        }
        Ok(pins)
    }

    pub(super) fn tables<F: TableFamily>(&self) -> Result<KernelTables<F>> {
        let maps = self.existing_pins()?.maps();
        KernelTables::open(|name| open_pinned_map(&maps, name))
    }

    pub(super) fn flows<F: TableFamily>(&self) -> Result<FlowTable<F>> {
        FlowTable::open(open_pinned_map(&self.existing_pins()?.maps(), F::FLOWS)?)
    }

    pub(super) fn node<F: TableFamily>(&self) -> Result<Node<F::Addr>> {
        Ok(NodeTable::<F>::open(open_pinned_map(&self.existing_pins()?.maps(), F::NODE)?)?.get()?)
    }

    pub(super) fn peers<F: TableFamily>(&self) -> Result<PeerTable<F>> {
        PeerTable::open(open_pinned_map(&self.existing_pins()?.maps(), F::PEERS)?)
    }

    pub(super) fn defers(&self) -> Result<DefersTable> {
        DefersTable::open(open_pinned_map(&self.existing_pins()?.maps(), names::DEFERS)?)
    }

    pub(super) fn stats(&self) -> Result<Stats> {
        let maps = self.existing_pins()?.maps();
        Stats::open(|name| open_pinned_map(&maps, name))
    }
}
