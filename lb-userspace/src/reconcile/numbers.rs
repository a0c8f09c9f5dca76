//! Handing out backend numbers. An endpoint that was taken away and comes back gets the number that it had, as long as
//! nobody needed it meanwhile: clients with session affinity are remembered by it (behaviour reference §3.4).

use std::collections::{HashMap, VecDeque};

use lb_common::layout::Address;

use super::{lists::Identity, ranges::Ranges};

/// The free numbers.
#[derive(Clone, Debug)]
pub(super) struct Numbers<A: Address> {
    never_asked_for: Ranges,
    /// Whose each kept number was.
    kept: HashMap<Identity<A>, u32>,
    /// Kept numbers, those that were given back first in front. A number that was taken again is not in `kept`.
    order: VecDeque<(u32, Identity<A>)>,
}

impl<A: Address> Numbers<A> {
    /// All numbers from `first` to `end`, without `end`, are free.
    pub(super) fn new(first: u32, end: u32) -> Self {
        Self {
            never_asked_for: Ranges::new(first, end),
            kept: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// How many are free, kept ones too.
    pub(super) fn free(&self) -> u32 {
        self.never_asked_for.free() + self.kept.len() as u32
    }

    /// A number for an endpoint: the one that it had, or one that is kept for nobody, or the one that was kept longest.
    pub(super) fn take(&mut self, identity: &Identity<A>) -> Option<u32> {
        if let Some(number) = self.kept.remove(identity) {
            self.forget_taken();
            return Some(number);
        }
        self.never_asked_for.take(1).or_else(|| self.take_oldest())
    }

    fn take_oldest(&mut self) -> Option<u32> {
        while let Some((number, identity)) = self.order.pop_front() {
            if self.kept.get(&identity) == Some(&number) {
                self.kept.remove(&identity);
                return Some(number);
            }
        }
        None
    }

    /// Takes this number, if it is kept for nobody and free.
    pub(super) fn take_at(&mut self, number: u32) -> bool {
        self.never_asked_for.take_at(number, 1)
    }

    /// Gives a number back.
    pub(super) fn give_back(&mut self, number: u32) {
        self.never_asked_for.give_back(number, 1);
    }

    /// Gives a number back that its endpoint is to have again if it returns.
    pub(super) fn keep(&mut self, number: u32, identity: Identity<A>) {
        match self.kept.insert(identity, number) {
            None => self.order.push_back((number, identity)),
            // One endpoint has one number; were it not so, none would be lost.
            Some(other) => {
                self.never_asked_for.give_back(other, 1);
                self.order.push_back((number, identity));
            }
        }
    }

    /// Endpoints that come and go must not make the order longer than it needs to be.
    fn forget_taken(&mut self) {
        if self.order.len() > 2 * self.kept.len() + 64 {
            let Self { kept, order, .. } = self;
            let mut seen = std::collections::HashSet::new();
            order.retain(|(number, identity)| kept.get(identity) == Some(number) && seen.insert(*number));
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::layout::{Ip4, Port};

    use super::*;

    fn endpoint(number: u8) -> Identity<Ip4> {
        let address = Ip4 {
            octets: [10, 244, 1, number],
        };
        (0, address, Port::new(8080))
    }

    #[test]
    fn an_endpoint_that_comes_back_gets_its_number_until_somebody_else_needs_it() {
        let mut numbers = Numbers::new(1, 4);
        let taken = [1, 2, 3].map(|number| numbers.take(&endpoint(number)));
        assert_eq!(taken, [Some(1), Some(2), Some(3)]);
        assert_eq!(numbers.take(&endpoint(4)), None);
        numbers.keep(2, endpoint(2));
        numbers.keep(1, endpoint(1));
        numbers.give_back(3);
        assert_eq!(numbers.free(), 3);
        assert_eq!(numbers.take(&endpoint(4)), Some(3), "kept for nobody");
        assert_eq!(numbers.take(&endpoint(1)), Some(1), "its own");
        assert_eq!(numbers.take(&endpoint(5)), Some(2), "kept longest");
        assert_eq!((numbers.free(), numbers.take(&endpoint(2))), (0, None));
    }

    #[test]
    fn no_number_is_lost_or_had_twice_however_often_endpoints_come_and_go() {
        let mut numbers = Numbers::new(1, 9);
        for round in 0..1_000_u32 {
            let names = [0, 1, 2, 3].map(|place| endpoint((round * 7 + place * 3) as u8 % 20));
            let taken = names.map(|name| numbers.take(&name).expect("there are 8"));
            let mut apart = taken.to_vec();
            apart.sort_unstable();
            apart.dedup();
            assert_eq!((apart.len(), numbers.free()), (4, 4), "round {round}");
            for (number, name) in taken.into_iter().zip(names) {
                if round % 3 == 0 {
                    numbers.give_back(number);
                } else {
                    numbers.keep(number, name);
                }
            }
            assert_eq!(numbers.free(), 8);
            assert!(numbers.order.len() <= 2 * 8 + 64 + 4);
        }
    }
}
