//! CRI v1 in front of the lifecycle: messages in, admitted specs on, views out.
pub mod admit;
