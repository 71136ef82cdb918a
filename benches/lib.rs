//! Benchmarks of the receive path; see the files beside this one.
