//! Rows for publishing: what is written, what is adopted, what is left alone, with memory tables and injected faults.
