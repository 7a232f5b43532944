#![no_main]

#[path = "../targets.rs"]
mod targets;

use std::sync::Once;

/// The `tokenizers` crate panics on damaged files, which the library catches. libFuzzer's hook ends the process before
/// that can happen; a panic that is not caught ends it without the hook as well.
static WITHOUT_HOOK: Once = Once::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    WITHOUT_HOOK.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    targets::tokenizer(data);
});
