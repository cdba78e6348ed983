//! NRI plugins: what they hear of, what they change, and what becomes of those that do not behave.

mod adjust;
mod failures;
mod installed;
mod lifecycle;
mod sync;
mod updates;
