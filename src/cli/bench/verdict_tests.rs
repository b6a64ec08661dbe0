use super::super::plot;
use super::*;

fn sample(case: &str, server: &str, round: usize, requests: f64, cpu: f64) -> Sample {
    Sample {
        case: case.to_owned(),
        server: server.to_owned(),
        round,
        requests,
        bytes: requests * 4096.0,
        p50: Some(10.0),
        p99: Some(20.0),
        cpu_per_million: cpu,
        cpu_per_gib: Some(1.0),
        resident: 1 << 20,
    }
}

/// Three rounds; in the second, the machine was ten times slower for both servers.
fn comparison() -> Comparison {
    let mut samples = Vec::new();
    for (round, speed) in [(1, 1.0), (2, 0.1), (3, 1.1)] {
        samples.push(sample("randread 4k d32", "coffer", round, 200.0 * speed, 2.0));
        samples.push(sample("randread 4k d32", "nbdkit", round, 100.0 * speed, 4.0));
        samples.push(sample("fua 4k d1", "coffer", round, 50.0 * speed, 8.0));
        samples.push(sample("fua 4k d1", "nbdkit", round, 100.0 * speed, 4.0));
        samples.push(sample("trim 64k d4", "coffer", round, 5.0, 1.0));
    }
    Comparison {
        machine: "a <machine>".to_owned(),
        kernel: String::new(),
        vaes: true,
        load_before: String::new(),
        load_after: String::new(),
        rounds: 3,
        seconds: 1.0,
        size: 0,
        servers: vec!["coffer".to_owned(), "nbdkit".to_owned()],
        samples,
    }
}

#[test]
fn ratios_are_of_one_round_and_a_slow_round_does_not_move_them() {
    let all = comparison();
    assert_eq!(rate_ratio(&all, "randread 4k d32", "nbdkit"), Some(2.0));
    assert_eq!(cpu_ratio(&all, "randread 4k d32", "nbdkit"), Some(0.5));
    assert_eq!(rate_ratio(&all, "fua 4k d1", "nbdkit"), Some(0.5));
    let both = mean(&all, |case| rate_ratio(&all, case, "nbdkit")).unwrap();
    assert!((both - 1.0).abs() < 1e-9, "twice and half are even: {both}");
}

#[test]
fn the_first_bar_is_the_worst_of_foreign_clients() {
    let mut all = comparison();
    assert_eq!(least_of_foreign(&all, "nbdkit"), None, "ours alone were measured");
    for (case, ours) in [("nbdcopy in", 300.0), ("fio write 128k d16", 70.0), ("fio read 128k d16", 90.0)] {
        for round in 1..=3 {
            all.samples.push(sample(case, "coffer", round, ours, 1.0));
            all.samples.push(sample(case, "nbdkit", round, 100.0, 1.0));
        }
    }
    assert_eq!(least_of_foreign(&all, "nbdkit"), Some(0.7));
    assert_eq!(least_of_foreign(&all, "nbdkit-luks"), None);
}

#[test]
fn what_a_server_does_not_offer_is_left_out() {
    let all = comparison();
    assert_eq!(rate_ratio(&all, "trim 64k d4", "nbdkit"), None);
    assert_eq!(counted(&all, |case| rate_ratio(&all, case, "nbdkit")).len(), 2);
    assert_eq!(measured(&all).count(), 3);
    assert_eq!(Median::of(&all, "fua 4k d1", "coffer").unwrap().requests, 50.0);
    assert!(Median::of(&all, "connect", "coffer").is_none());
}

#[test]
fn a_plot_has_a_bar_for_each_case_and_server_and_escapes_what_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let made = plot::write(&comparison(), dir.path()).unwrap();
    let names: Vec<_> = made.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["rate-small.svg", "rate-durable.svg", "cpu.svg"], "no large requests were measured");
    let small = std::fs::read_to_string(&made[0]).unwrap();
    // A background, two servers named, two cases of two bars.
    assert_eq!(small.matches("<rect").count(), 1 + 2 + 4);
    assert!(small.contains("200/s") && small.contains("100/s") && small.contains("not offered"));
    assert!(small.contains("a &lt;machine&gt;") && !small.contains("<machine>"));
}
