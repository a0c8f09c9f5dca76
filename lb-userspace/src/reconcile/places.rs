//! A book of values by number: numbers are handed out from the lowest on, so an array is smaller than a hash table, and faster.

/// Values by number.
#[derive(Clone, Debug)]
pub(super) struct Places<T> {
    places: Vec<Option<T>>,
}

impl<T> Places<T> {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new() }
    }

    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.places.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.places.get_mut(number as usize)?.as_mut()
    }

    /// The place of a number, with what `make` makes if there was nothing.
    pub(super) fn get_or_insert_with(&mut self, number: u32, make: impl FnOnce() -> T) -> &mut T {
        let index = number as usize;
        if index >= self.places.len() {
            self.places.resize_with(index + 1, || None);
        }
        self.places[index].get_or_insert_with(make)
    }

    pub(super) fn remove(&mut self, number: u32) {
        if let Some(place) = self.places.get_mut(number as usize) {
            *place = None;
        }
    }

    /// One more than the largest number that there has been.
    pub(super) fn len(&self) -> u32 {
        self.places.len() as u32
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }
}
