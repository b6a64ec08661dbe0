//! Facts about the machine to report with every measurement.

/// Returns the kernel's load averages.
pub fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

/// Describes the processor of this machine.
pub fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let found = cpuinfo.lines().find(|l| l.starts_with(name)).and_then(|l| l.split_once(':'));
        found.map(|(_, v)| v.trim().to_owned()).unwrap_or_default()
    };
    let flags = field("flags");
    let has = ["aes", "vaes", "avx512f"].into_iter().filter(|f| flags.split(' ').any(|g| g == *f)).collect::<Vec<_>>();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{}, {cores} cores, {}", field("model name"), has.join(" "))
}
