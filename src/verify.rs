//! The case table, run on a backend and compared with the twins.
