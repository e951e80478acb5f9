//! What the process of a server takes of memory, as the kernel counts it.

use crate::Floe;

/// Resident bytes at this moment.
pub fn resident_bytes(floe: &Floe) -> u64 {
    status(floe, "VmRSS:")
}

/// Most bytes that were resident since the start, or since [`forget_peak`].
pub fn peak_bytes(floe: &Floe) -> u64 {
    status(floe, "VmHWM:")
}

/// Makes [`peak_bytes`] begin anew.
pub fn forget_peak(floe: &Floe) {
    // Where it is refused the peak is only greater than it need be.
    let _ = std::fs::write(format!("/proc/{}/clear_refs", floe.pid()), "5");
}

fn status(floe: &Floe, name: &str) -> u64 {
    let path = format!("/proc/{}/status", floe.pid());
    let text = std::fs::read_to_string(path).expect("the server lives");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("it is Linux");
    let kib = line.trim().trim_end_matches(" kB").parse::<u64>().expect("it is a number");
    kib << 10
}

/// Lets this process, and the servers that it starts from now on, open as many files as the system
/// allows; how many those are.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
        return maximum.unwrap_or(u64::MAX);
    }
    current.unwrap_or(u64::MAX)
}
