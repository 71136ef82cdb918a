//! `rightedge bench`: what a segment, a collapse and a policy cost, beside rivals that do the same work in the same run.
//!
//! | module | one line |
//! |---|---|
//! | [`measure`] | rounds, medians, ratios |
//! | [`segment`] | the path of one segment, beside smoltcp's |
//! | [`collapse`] | collapses beside a plain copy, and policies beside each other |
//! | [`kernel`] | the live kernel's own collapse |
//! | [`scale`] | many connections, and an attack |
//! | [`instructions`] | instructions instead of time |
//! | [`report`] | tables, targets, comparisons of two runs |
//! | `chart` | the collapse as a picture |
//! | [`command`] | what can be typed |
//! | [`wire`] | wire to application: a kernel's sender over TAP, receivers in turn |

#[cfg(feature = "charts")]
mod chart;
pub mod collapse;
pub mod command;
pub mod instructions;
pub mod kernel;
pub mod measure;
pub mod report;
pub mod scale;
pub mod segment;
pub mod wire;
