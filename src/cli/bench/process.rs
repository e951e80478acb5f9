//! What the kernel says of a process: CPU, disk, memory. Zeros where there is no `/proc`.

/// Clock ticks a second in `/proc`, the same on every Linux.
const TICKS: f64 = 100.0;

/// A process on this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    /// None: it is not known, and has used nothing.
    pub(super) pid: Option<u32>,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// User and system, seconds.
    pub(super) cpu_seconds: f64,
    /// Bytes sent to the disk.
    pub(super) disk_bytes: f64,
    /// Calls that read from files, and those that wrote.
    pub(super) reads: f64,
    pub(super) writes: f64,
    /// Bytes of these calls.
    pub(super) read_bytes: f64,
    pub(super) written_bytes: f64,
}

impl Process {
    /// This one.
    pub(super) fn own() -> Self {
        Self { pid: Some(std::process::id()) }
    }

    fn read(self, file: &str) -> String {
        let read = |pid| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
        self.pid.and_then(|pid| read(pid).ok()).unwrap_or_default()
    }

    /// What it has used so far.
    pub(super) fn usage(self) -> Usage {
        usage_of(&self.read("stat"), &self.read("io"))
    }

    /// Most resident memory so far, MB.
    pub(super) fn peak_mb(self) -> f64 {
        line_of(&self.read("status"), "VmHWM:") * 1024.0 / 1e6
    }

    /// Resident memory now, MB.
    pub(super) fn resident_mb(self) -> f64 {
        line_of(&self.read("status"), "VmRSS:") * 1024.0 / 1e6
    }
}

fn line_of(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

fn usage_of(stat: &str, io: &str) -> Usage {
    // The name, in parentheses, may hold anything: fields are counted after it.
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let cpu = ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0);
    Usage {
        cpu_seconds: cpu / TICKS,
        disk_bytes: line_of(io, "write_bytes:"),
        reads: line_of(io, "syscr:"),
        writes: line_of(io, "syscw:"),
        read_bytes: line_of(io, "rchar:"),
        written_bytes: line_of(io, "wchar:"),
    }
}

impl std::ops::Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            disk_bytes: self.disk_bytes - earlier.disk_bytes,
            reads: self.reads - earlier.reads,
            writes: self.writes - earlier.writes,
            read_bytes: self.read_bytes - earlier.read_bytes,
            written_bytes: self.written_bytes - earlier.written_bytes,
        }
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.cpu_seconds += other.cpu_seconds;
        self.disk_bytes += other.disk_bytes;
        self.reads += other.reads;
        self.writes += other.writes;
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read_whatever_the_process_is_called() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20";
        let usage =
            usage_of(stat, "rchar: 1\nsyscr: 2\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n");
        assert_eq!((usage.cpu_seconds, usage.disk_bytes), (4.0, 4096.0));
        assert_eq!((usage.read_bytes, usage.reads, usage.writes), (1.0, 2.0, 0.0));
        assert_eq!(usage_of("", "").cpu_seconds, 0.0);
        assert_eq!(Process { pid: None }.peak_mb(), 0.0);
    }
}
