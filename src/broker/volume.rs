//! Whether the data directory outlives the machine or container that it is in, where that can be
//! told: by the file system that it lies on.

use std::path::Path;

/// File systems that end with a container or a machine, by `statfs` magic (source: `linux/magic.h`).
#[cfg(target_os = "linux")]
const PASSING_MAGICS: &[(u64, &str)] = &[
    (0x794C_7630, "overlay, the file system of a container"),
    (0x6175_6673, "aufs, the file system of a container"),
    (0x0102_1994, "tmpfs, which is memory"),
    (0x8584_58F6, "ramfs, which is memory"),
];

/// What to tell of a data directory without a volume of its own.
pub(super) fn warning(data_dir: &Path) -> Option<String> {
    let kind = passing(data_dir)?;
    Some(format!(
        "no volume: {data_dir:?} is on {kind}; what is stored there is lost with it, also what was \
         acknowledged: mount a volume there, or name another data.dir"
    ))
}

#[cfg(target_os = "linux")]
fn passing(data_dir: &Path) -> Option<&'static str> {
    let stat = rustix::fs::statfs(data_dir).ok()?;
    // The type is signed or not, 32 or 64 bits, by platform; magics are 32 bits.
    let magic = (stat.f_type as u64) & 0xFFFF_FFFF;
    PASSING_MAGICS.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

#[cfg(not(target_os = "linux"))]
fn passing(_data_dir: &Path) -> Option<&'static str> {
    None
}
