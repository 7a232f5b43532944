//! The model that is built in, so that `gristmill` alone has something to say.

/// What a model's folder would hold.
pub(crate) struct Files {
    pub(crate) config: &'static [u8],
    pub(crate) weights: &'static [u8],
    pub(crate) tokenizer: &'static [u8],
}

/// What it is asked to continue when nothing else is given.
pub(crate) const PROMPT: &str = "A reference is";

/// New tokens when no number is given.
pub(crate) const TOKENS: usize = 200;

#[cfg(feature = "demo")]
pub(crate) const FILES: Option<Files> = Some(Files {
    config: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/config.json")),
    weights: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/model.safetensors")),
    tokenizer: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/tokenizer.json")),
});

#[cfg(not(feature = "demo"))]
pub(crate) const FILES: Option<Files> = None;
