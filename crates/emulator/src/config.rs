//! What an emulated replica is to be.

use std::net::{Ipv4Addr, SocketAddr};

use engine::{Profile, UnknownProfile};
use types::quantity::{Blocks, Tokens};

use crate::{faults::Fault, kv_events::KvEvents};

/// One emulated replica.
#[derive(Clone, Debug)]
pub struct EmulatorConfig {
    /// Name under which the model is served.
    pub model: String,
    /// Model, GPU and limits of the engine.
    pub profile: Profile,
    /// What goes wrong from the start.
    pub fault: Fault,
}

impl EmulatorConfig {
    /// A healthy replica that serves `profile` under the name `model`.
    #[must_use]
    pub fn new(model: impl Into<String>, profile: Profile) -> Self {
        Self { model: model.into(), profile, fault: Fault::None }
    }
}

/// Several equal replicas on consecutive ports, as the command line asks for them.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address of the first replica; port 0 gives every replica a free one.
    pub listen: SocketAddr,
    /// Number of replicas.
    pub replicas: u16,
    /// Name of the engine's profile.
    pub profile: String,
    /// The engine's profile, where it is none of those that have a name.
    pub own_profile: Option<Profile>,
    /// Name under which the model is served; the profile's name when absent.
    pub model: Option<String>,
    /// Blocks of the KV cache, instead of the profile's.
    pub kv_blocks: Option<Blocks>,
    /// Most sequences in a step, instead of the profile's.
    pub max_num_seqs: Option<u32>,
    /// Most tokens in a step, instead of the profile's.
    pub max_num_batched_tokens: Option<Tokens>,
    /// What goes wrong from the start, on every replica.
    pub fault: Fault,
    /// Where the first replica publishes what its engine caches; the others take the ports after it.
    pub kv_events: Option<KvEvents>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            replicas: 1,
            profile: "llama-3-8b-h100".to_owned(),
            own_profile: None,
            model: None,
            kv_blocks: None,
            max_num_seqs: None,
            max_num_batched_tokens: None,
            fault: Fault::None,
            kv_events: None,
        }
    }
}

impl Options {
    /// The configuration of each replica.
    ///
    /// # Errors
    ///
    /// No profile has the name.
    pub fn replica(&self) -> Result<EmulatorConfig, UnknownProfile> {
        let mut profile = match &self.own_profile {
            Some(own) => own.clone(),
            None => Profile::named(&self.profile)?,
        };
        if let Some(blocks) = self.kv_blocks {
            profile.kv_tokens = blocks.tokens(profile.block_size);
        }
        profile.max_num_seqs = self.max_num_seqs.unwrap_or(profile.max_num_seqs);
        profile.max_num_batched_tokens =
            self.max_num_batched_tokens.unwrap_or(profile.max_num_batched_tokens);
        let model = self.model.clone().unwrap_or_else(|| profile.name.clone());
        Ok(EmulatorConfig { fault: self.fault, ..EmulatorConfig::new(model, profile) })
    }

    /// The address of replica number `index`, counted from zero; `None` past the last port.
    #[must_use]
    pub fn address(&self, index: u16) -> Option<SocketAddr> {
        let port = match self.listen.port() {
            0 => 0,
            first => first.checked_add(index)?,
        };
        Some(SocketAddr::new(self.listen.ip(), port))
    }
}
