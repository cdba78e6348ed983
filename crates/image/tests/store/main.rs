//! The image store from outside: on a real disk, against a registry inside the test.
//!
//! These tests make devices, owners and overlay attributes, so they need root.

mod crash;
mod disk;
mod fixture;
mod hostile;
mod import;
mod layers;
mod mirrors;
mod pull;
mod races;
mod registry;
mod snapshots;
mod tls;
mod tokens;
mod wicked;
