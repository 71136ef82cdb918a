//! `rightedge`
fn main() {}
