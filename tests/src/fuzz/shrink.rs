//! Cutting a tape down to what a failure needs: parts are taken out, octets become 0, as long as it still fails.

/// A failure is not worth more tries.
const TRIES_MAX: usize = 20_000;

/// A smaller tape that fails as this one does.
pub(super) fn shrink(mut tape: Vec<u8>, mut fails: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let mut tries = 0;
    let mut still_fails = |tape: &[u8]| {
        tries += 1;
        tries < TRIES_MAX && fails(tape)
    };
    loop {
        let before = tape.clone();
        let mut part = tape.len().next_power_of_two();
        while part > 0 {
            // From the end: what is cut there changes nothing in front of it.
            let mut to = tape.len();
            while to > 0 {
                let from = to.saturating_sub(part);
                let mut shorter = tape.clone();
                shorter.drain(from..to);
                if still_fails(&shorter) {
                    tape = shorter;
                }
                to = from;
            }
            part /= 2;
        }
        for at in 0..tape.len() {
            let octet = std::mem::take(&mut tape[at]);
            if octet != 0 && !still_fails(&tape) {
                tape[at] = octet;
            }
        }
        if tape == before {
            return tape;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_needs_stays() {
        let tape: Vec<u8> = (1..=200).collect();
        let fails = |tape: &[u8]| tape.contains(&77) && tape.iter().skip_while(|octet| **octet != 77).count() > 3;
        assert_eq!(shrink(tape, fails), [77, 0, 0, 0]);
    }
}
