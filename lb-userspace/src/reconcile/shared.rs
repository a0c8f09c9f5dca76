//! Which Maglev tables there are: one for each set of endpoints with their weights, shared by all lists of that set. The lists
//! of all ports and addresses of a Service are of few sets.
//!
//! Here: who uses which, and where it is. What is in them: `maglev`; when a list has one: `plan`.

use std::collections::HashMap;

use lb_common::layout::{Address, Chunk, TableHeader, limits::MAGLEV_ENDPOINTS_MAX};

use super::{
    maglev::{self, Member},
    publish::{PublishError, Publisher},
};
use crate::tables::{TableFamily, Tables};

/// A table that a list is to have.
pub(super) struct WantedTable<A> {
    members: Vec<Member<A>>,
    key: TableKey,
}

/// Which set of endpoints: what it was made from and how many there are, so that no ordinal leads beyond a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TableKey {
    fingerprint: u64,
    members: u32,
}

impl TableKey {
    /// Endpoints of the set.
    pub(super) const fn members(self) -> u32 {
        self.members
    }

    /// Whether it belongs to one of so many parts of all tables.
    pub(super) const fn is_of_part(self, part: u32, parts: u32) -> bool {
        self.fingerprint as u32 % parts == part
    }

    pub(super) const fn of(header: &TableHeader, members: u32) -> Self {
        Self {
            fingerprint: header.fingerprint,
            members,
        }
    }

    /// Chunks that its table has.
    pub(super) fn chunks(self) -> u32 {
        maglev::chunks(maglev::cells(self.members))
    }
}

impl<A: Address> WantedTable<A> {
    /// For so many members that there is something to choose.
    pub(super) fn new(members: Vec<Member<A>>) -> Option<Self> {
        let key = TableKey {
            fingerprint: maglev::fingerprint(&members),
            members: members.len() as u32,
        };
        (members.len() > 1).then_some(Self { members, key })
    }
}

/// Where a table is, and how many lists have it.
#[derive(Clone, Debug)]
pub(super) struct SharedTable<A> {
    header: TableHeader,
    uses: u32,
    /// For whom it is; not known of an earlier agent's until a list asks for it.
    members: Option<Box<[Member<A>]>>,
    /// Of what it was made to hold; made when it is asked for.
    sum: Option<u64>,
}

impl<A: Address> SharedTable<A> {
    /// Its first chunk.
    pub(super) const fn first_chunk(&self) -> u32 {
        self.header.first_chunk
    }

    /// What the table should hold, if it isn't this.
    pub(super) fn right_instead_of(&mut self, found: &[Chunk]) -> Option<Vec<Chunk>> {
        let members = self.members.as_ref()?;
        let sum = *self.sum.get_or_insert_with(|| maglev::sum(&maglev::table(members)));
        (maglev::sum(found) != sum).then(|| maglev::table(members))
    }
}

/// All tables of a family.
pub(super) type SharedTables<A> = HashMap<TableKey, SharedTable<A>>;

impl<F: TableFamily, T: Tables<F::Addr>> Publisher<F, T> {
    /// Whether a list's table is the one that it is to have. One that has no room is not missed.
    pub(super) fn has_wanted_table(
        &self,
        now: Option<&TableHeader>,
        members: u32,
        wanted: Option<&WantedTable<F::Addr>>,
    ) -> bool {
        match (now, wanted) {
            (Some(now), Some(wanted)) => TableKey::of(now, members) == wanted.key,
            (None, Some(wanted)) => !self.has_room_for(wanted),
            (now, None) => now.is_none(),
        }
    }

    /// Whether a table can be had: it is there, or there is a place for it.
    pub(super) fn has_room_for(&self, wanted: &WantedTable<F::Addr>) -> bool {
        let fits = || wanted.key.members <= MAGLEV_ENDPOINTS_MAX && self.free_chunks.has(wanted.key.chunks());
        self.shared.contains_key(&wanted.key) || fits()
    }

    /// The table of one list more; nothing if there is no room for it.
    pub(super) fn use_table(&mut self, wanted: &WantedTable<F::Addr>) -> Result<Option<TableHeader>, PublishError> {
        if let Some(table) = self.shared.get_mut(&wanted.key) {
            table.uses += 1;
            return Ok(Some(table.header));
        }
        if !self.has_room_for(wanted) {
            return Ok(None);
        }
        let Some(first_chunk) = self.free_chunks.take(wanted.key.chunks()) else {
            return Ok(None);
        };
        let chunks = maglev::table(&wanted.members);
        if let Err(error) = self.tables.put_chunks(first_chunk, &chunks) {
            // Nobody was told of it.
            self.free_chunks.give_back(first_chunk, wanted.key.chunks());
            return Err(error.into());
        }
        let header = TableHeader {
            first_chunk,
            cells: maglev::cells(wanted.key.members),
            fingerprint: wanted.key.fingerprint,
        };
        let table = SharedTable {
            header,
            uses: 1,
            members: Some(wanted.members.as_slice().into()),
            sum: Some(maglev::sum(&chunks)),
        };
        self.shared.insert(wanted.key, table);
        Ok(Some(header))
    }

    /// Takes note of the endpoints of a table that an earlier agent has made.
    pub(super) fn know_members(&mut self, wanted: &WantedTable<F::Addr>) {
        if let Some(table) = self.shared.get_mut(&wanted.key) {
            table.members.get_or_insert_with(|| wanted.members.as_slice().into());
        }
    }

    /// A table that one list less has. A reader may still be on its way to it.
    pub(super) fn release_table(&mut self, header: &TableHeader, members: u32) {
        let key = TableKey::of(header, members);
        let Some(table) = self.shared.get_mut(&key) else {
            return;
        };
        table.uses -= 1;
        if table.uses == 0 {
            self.shared.remove(&key);
            self.retired.chunks.push((header.first_chunk, key.chunks()));
        }
    }

    /// A table that a list has from an earlier agent. False if it can't be: it is beyond the end, of another size, or where
    /// another is.
    pub(super) fn adopt_table(&mut self, header: TableHeader, members: u32) -> bool {
        let key = TableKey::of(&header, members);
        if let Some(table) = self.shared.get_mut(&key) {
            let is_it = table.header == header;
            table.uses += u32::from(is_it);
            return is_it;
        }
        let sound = (2..=MAGLEV_ENDPOINTS_MAX).contains(&members)
            && header.cells == maglev::cells(members)
            && self.free_chunks.take_at(header.first_chunk, key.chunks());
        if sound {
            let table = SharedTable {
                header,
                uses: 1,
                members: None,
                sum: None,
            };
            self.shared.insert(key, table);
        }
        sound
    }
}
