//! Whole-run tests of Rightedge: what they share.
