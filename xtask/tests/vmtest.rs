//! That `cargo xtask vmtest` can be red. (That it is green is for the command itself to show.)

use std::process::Command;

use xtask::rig::can_make_hosts;

#[test]
fn a_program_that_the_kernel_refuses_is_red_with_the_verifiers_reason() {
    // Needs root, as hosts do.
    if !can_make_hosts() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["vmtest", "--kernel", "host", "--break-program"])
        .output()
        .expect("cargo has built it");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "green with a broken program:\n{said}");
    assert!(said.contains("invalid bpf_context access"), "not the verifier's reason:\n{said}");
    // Tests of other programs, and of what needs none, go on.
    for test in
        ["a_full_ring_is_counted_and_traffic_goes_on", "self_check_finds_the_same_stamps_at_both_tiers"]
    {
        assert!(said.contains(test), "{test} is green:\n{said}");
    }
}
