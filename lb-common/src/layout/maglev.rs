//! Maglev tables: which member of a list of endpoints takes a flow, by the flow's hash (Eisenbud et al., "Maglev: A Fast and
//! Reliable Software Network Load Balancer", NSDI 2016, §3.4). What is in a table is up to `reconcile::maglev` of the
//! agent, how a flow finds its cell to `datapath::select`.

/// Cells of one [`Chunk`].
pub const CHUNK_CELLS: u32 = 64;

pod! {
    /// A piece of a table. Each cell has an ordinal: a member's place in its list.
    pub struct Chunk {
        /// The ordinals.
        pub ordinals: [u16; CHUNK_CELLS as usize],
    }
    size: 128;
}

impl Default for Chunk {
    fn default() -> Self {
        Self {
            ordinals: [0; CHUNK_CELLS as usize],
        }
    }
}

/// Into how many cells all hashes are divided: into 2^bits equal parts, of which the first `split` are halved.
///
/// So a table can have any number of cells, and one cell more changes nothing but the part that it is cut from: if the
/// hash were taken modulo the number of cells, every endpoint more would move almost every flow.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cells(u32);

impl Cells {
    const BITS_SHIFT: u32 = 24;
    const SPLIT_MAX: u32 = (1 << Self::BITS_SHIFT) - 1;
    /// Largest number of cells.
    pub const COUNT_MAX: u32 = 1 << Self::BITS_SHIFT;

    /// So many cells, from 1 to [`Self::COUNT_MAX`].
    ///
    /// # Panics
    /// In debug builds, if there are more or none.
    #[must_use]
    pub const fn new(count: u32) -> Self {
        debug_assert!(count >= 1 && count <= Self::COUNT_MAX);
        let bits = count.ilog2();
        Self((bits << Self::BITS_SHIFT) + count - (1 << bits))
    }

    /// As one word of memory.
    #[must_use]
    #[inline(always)]
    pub const fn to_word(self) -> u32 {
        self.0
    }

    /// From one word of memory.
    #[must_use]
    #[inline(always)]
    pub const fn from_word(word: u32) -> Self {
        Self(word)
    }

    /// Logarithm to the base 2 of the number of parts, from 0 to 31 whatever the word says.
    #[must_use]
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self.0 >> Self::BITS_SHIFT & 31
    }

    /// How many parts are halved.
    #[must_use]
    #[inline(always)]
    pub const fn split(self) -> u32 {
        self.0 & Self::SPLIT_MAX
    }

    /// How many cells there are.
    #[must_use]
    pub const fn count(self) -> u32 {
        (1 << self.bits()) + self.split()
    }
}

/// What lies in the slots before the members of a list that has a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableHeader {
    /// First chunk of the table.
    pub first_chunk: u32,
    /// Its cells.
    pub cells: Cells,
    /// What the table was made from: another for other addresses, weights or rules.
    pub fingerprint: u64,
}

impl TableHeader {
    /// Slots that it takes.
    pub const SLOTS: u32 = 4;

    /// As slots, in their order.
    #[must_use]
    pub const fn to_slots(self) -> [u32; Self::SLOTS as usize] {
        let (high, low) = ((self.fingerprint >> 32) as u32, self.fingerprint as u32);
        [self.first_chunk, self.cells.to_word(), high, low]
    }

    /// From slots.
    #[must_use]
    pub const fn from_slots([first_chunk, cells, high, low]: [u32; Self::SLOTS as usize]) -> Self {
        Self {
            first_chunk,
            cells: Cells::from_word(cells),
            fingerprint: (high as u64) << 32 | low as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_how_many_cells_there_are() {
        for count in [1, 2, 3, 200, 255, 256, 257, 10_000, Cells::COUNT_MAX] {
            let cells = Cells::new(count);
            assert_eq!(cells.count(), count);
            assert_eq!(Cells::from_word(cells.to_word()), cells);
        }
    }

    #[test]
    fn a_header_survives_the_way_through_slots() {
        let header = TableHeader {
            first_chunk: 77,
            cells: Cells::new(500),
            fingerprint: 0x0123_4567_89ab_cdef,
        };
        assert_eq!(TableHeader::from_slots(header.to_slots()), header);
    }
}
