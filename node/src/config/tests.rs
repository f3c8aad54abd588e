use super::*;
use std::path::Path;

fn host() -> Host {
    Host { name: Ok("alpha".into()), page_bytes: 4096, control: Some("/run/c.sock".into()) }
}
fn from_file(text: &str) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.toml");
    std::fs::write(&path, text).unwrap();
    Settings::read(&path).map_err(|e| e.to_string().replace(&path.display().to_string(), "FILE"))
}
fn refused(text: &str) -> String {
    from_file(text).unwrap().validate(&host()).unwrap_err().to_string()
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = from_file("advertise = '10.0.0.1:0'").unwrap().validate(&host()).unwrap();
    assert_eq!(config.node_id, "alpha");
    assert_eq!(config.bind.to_string(), "0.0.0.0:7176");
    assert_eq!(config.metrics_bind.to_string(), "127.0.0.1:7177");
    assert_eq!(config.interval, Duration::from_millis(100));
    assert_eq!((config.ring_bytes, config.max_packet_bytes), (262_144, 1400));
    assert_eq!((config.dscp, config.pad_packet_bytes, config.source_ports.len()), (None, 0, 0));
    assert_eq!((config.tx_stamps, &config.hardware_stamps), (true, &None));
    assert_eq!(config.clock_sources.first().unwrap().to_string(), "chrony:127.0.0.1:323");
    assert_eq!(config.clock_sources.last().unwrap().to_string(), "adjtimex");
    assert_eq!(config.reporting_window, Duration::from_secs(15));
    assert_eq!(config.advertise_when_bound("0.0.0.0:7176".parse().unwrap()).to_string(), "10.0.0.1:7176");
}

#[test]
fn a_key_that_does_not_exist_is_named_with_its_line_and_the_known_ones() {
    let error = from_file("node_id = 'a'\nintervall_ms = 5\n").unwrap_err();
    assert!(error.starts_with("FILE: line 2: unknown field `intervall_ms`, expected one of"), "{error}");
    assert!(error.contains("`interval_ms`") && !error.contains('\n'), "{error}");
}

#[test]
fn clock_sources_are_an_ordered_list_and_chrony_a_shorthand() {
    let sources = |text: &str| -> Vec<String> {
        let settings = from_file(&format!("bind = '127.0.0.1:1'\n{text}")).unwrap();
        settings.validate(&host()).unwrap().clock_sources.iter().map(ToString::to_string).collect()
    };
    let list = "clock_sources = ['chrony:/run/c.sock', 'sntp:time.example.org', 'adjtimex']";
    assert_eq!(sources(list), ["chrony:/run/c.sock", "sntp:time.example.org:123", "adjtimex"]);
    let both = format!("{list}\nchrony = '127.0.0.1:5'");
    assert_eq!(sources(&both), ["chrony:127.0.0.1:5", "sntp:time.example.org:123", "adjtimex"]);
    let error = from_file("clock_sources = ['ntp.example.org']").unwrap_err();
    assert!(error.contains("line 1: `ntp.example.org` is no clock source: expected chrony, "), "{error}");
}

#[test]
fn malformed_files_give_one_line() {
    for text in ["bind = 5", "bind = 'x'", "[", "probe = 'magic'", "seeds = 'x'", "\u{0}"] {
        let error = from_file(text).unwrap_err();
        assert!(error.starts_with("FILE: line 1: ") && !error.contains('\n'), "{text}: {error}");
    }
    assert!(Settings::read(Path::new("/nonexistent/x")).unwrap_err().to_string().contains("/nonexistent/x"));
}

#[test]
fn values_out_of_range_say_what_is_expected() {
    let with = |text: &str| refused(&format!("bind = '127.0.0.1:1'\n{text}"));
    assert_eq!(with("interval_ms = 5"), "interval_ms is 5, but must be from 10 to 60000");
    assert!(with("ring_bytes = 5000").contains("a power of two and a multiple of the page size, 4096 bytes"));
    assert!(with("ring_bytes = 0").starts_with("ring_bytes is 0"));
    assert!(with("ring_bytes = 2048").starts_with("ring_bytes is 2048"));
    assert!(with("node_id = 'a b'").starts_with("node_id is \"a b\""));
    assert!(with("node_id = ''").starts_with("node_id is \"\""));
    assert!(with("seeds = ['0.0.0.0:5']").contains("the address of one host"));
    assert!(with("seeds = ['10.0.0.1:0']").contains("with a port"));
    assert!(with("advertise = '[::1]:5'").contains("same IP version"));
    assert!(with("fanout = 0").starts_with("fanout is 0"));
    for bad in ["1", "40000, 40000", "1, 2, 3, 4, 5, 6, 7, 8"] {
        let error = with(&format!("source_ports = [{bad}]"));
        assert!(error.starts_with(&format!("source_ports is [{bad}], but must be at most 7")), "{error}");
    }
    let elsewhere = with("advertise = '127.0.0.1:2'\nsource_ports = [3]");
    assert!(elsewhere.contains("while advertise has the port of bind"), "{elsewhere}");
    assert!(with("hardware_stamps = 'eth 0'").starts_with("hardware_stamps is \"eth 0\""));
    assert_eq!(with("dscp = 64"), "dscp is 64, but must be from 0 to 63");
    let padded = with("max_packet_bytes = 1200\npad_packet_bytes = 1201");
    assert_eq!(padded, "pad_packet_bytes is 1201, but must be from 0 to 1200");
}

#[test]
fn an_unspecified_bind_needs_an_advertised_address() {
    let error = refused("");
    assert!(error.contains("0.0.0.0:7176") && error.contains("--advertise 192.0.2.10:7176"), "{error}");
    assert!(refused("advertise = '0.0.0.0:1'").contains("the address of one host"));
}

#[test]
fn flags_override_the_file() {
    let flags = Settings { interval_ms: Some(50), ..Settings::default() };
    let file = from_file("interval_ms = 70\nnode_id = 'f'\nseeds = ['10.0.0.1:1']").unwrap();
    let both = flags.or(file);
    assert_eq!((both.interval_ms, both.node_id.as_deref()), (Some(50), Some("f")));
    assert_eq!(both.seeds.map(|s| s.len()), Some(1));
}

#[test]
fn without_a_place_for_the_control_socket_one_must_be_given() {
    let settings = from_file("bind = '127.0.0.1:1'").unwrap();
    let error = settings.validate(&Host { control: None, ..host() }).unwrap_err();
    assert!(matches!(error, ConfigError::NoControlPath));
}
