//! How much a file of manifests may ask of us.
//!
//! All input is hostile. Each limit is far beyond what the API server accepts (about 1.5 MB an object, 1000 endpoints and
//! 100 ports a slice), and each is enforced while reading, before the memory is spent. Called by the readers next door.

/// A larger file is refused. 10 000 Services with 5 endpoints each are about 12 MB of JSON.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;
/// How deep lists and mappings may nest. A Service reaches 6, an EndpointSlice 7, managedFields about 15.
pub(super) const MAX_DEPTH: usize = 64;
/// How many values one object may hold; an EndpointSlice with 1000 endpoints has about 20 000.
pub(super) const MAX_OBJECT_VALUES: usize = 200_000;
/// How much text one object may hold, keys and values together.
pub(super) const MAX_OBJECT_TEXT_BYTES: usize = 4 << 20;
/// How long one object of JSON may be, blanks and all; what is nested in it is scanned once for each level.
pub(super) const MAX_OBJECT_JSON_BYTES: usize = 8 << 20;
/// How many objects one file may declare.
pub(super) const MAX_FILE_OBJECTS: usize = 250_000;
/// How many values of list elements may wait for the kind that their list has at its end (a `ServiceList` as the API
/// answers it); 10 000 Services have about 400 000.
pub(super) const MAX_UNNAMED_VALUES: usize = 1_000_000;
/// How many problems of one file are told one by one.
pub(super) const MAX_FILE_PROBLEMS: usize = 100;

/// What is left to the object that is being read. Values that a YAML alias repeats count each time, which is what makes
/// an alias bomb fail early.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    values: usize,
    text_bytes: usize,
}

impl Budget {
    pub(super) fn full() -> Self {
        Self {
            values: MAX_OBJECT_VALUES,
            text_bytes: MAX_OBJECT_TEXT_BYTES,
        }
    }

    /// Pays for one value with so much text; says which limit is exceeded.
    pub(super) fn spend(&mut self, text_bytes: usize) -> Result<(), String> {
        self.values = self.values.checked_sub(1).ok_or_else(|| {
            format!("an object holds more than {MAX_OBJECT_VALUES} values (aliases counted each time)")
        })?;
        self.text_bytes = self
            .text_bytes
            .checked_sub(text_bytes)
            .ok_or_else(|| format!("an object holds more than {MAX_OBJECT_TEXT_BYTES} bytes of text"))?;
        Ok(())
    }
}
