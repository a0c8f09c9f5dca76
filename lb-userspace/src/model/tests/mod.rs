//! Tests of the model, by what they are about: merging slices, folding changes.

mod merge;
mod store;
