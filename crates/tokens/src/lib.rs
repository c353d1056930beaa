//! Turns a prompt into the token ids that the engine will compute.
//!
//! An engine caches tokens of the rendered prompt; what it says it holds can be compared with a request
//! only once the request is in tokens as well. Start with [`model`], which reads a body; [`template`]
//! renders a chat as the engine does, [`segments`] turns text into ids and pays only for what is new.
//!
//! Nothing here reads a file: what a model's folder holds arrives as text.

pub mod model;
pub mod segments;
pub mod template;

#[cfg(test)]
mod testing;
