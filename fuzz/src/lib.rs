//! What all targets share: the memory that one input may take.

use std::alloc::System;
use std::panic;
use std::sync::Once;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Runs `target` on `data`, and lets it hold at most what [`floe::fuzzing::TARGETS`] allows under
/// `name`, beyond what was held before: an allocation above that fails, which ends the process.
/// Memory of C libraries does not count.
pub fn bounded(name: &str, target: fn(&[u8]), data: &[u8]) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // A backtrace takes more than any input.
            let _ = ALLOCATOR.set_limit(usize::MAX);
            report(info);
        }));
    });
    let limits = floe::fuzzing::TARGETS.iter().find(|target| target.name == name);
    let limits = limits.expect("every target is in the table");
    let allowed = limits.bytes + limits.bytes_per_byte * data.len();
    let _ = ALLOCATOR.set_limit(ALLOCATOR.allocated().saturating_add(allowed));
    target(data);
    let _ = ALLOCATOR.set_limit(usize::MAX);
}
