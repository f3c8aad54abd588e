//! Green or red, and why.

use std::fmt;
use std::fmt::Write;
use std::time::Duration;

use super::console::Failure;
use super::kernel::Kernel;
use super::machine::Run;

/// How much of a failed test's output, or of a machine's, is shown. A verifier's log has its reason at the end.
const SHOWN_LINES: usize = 40;

/// What is to be said of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Tests that passed.
    pub(super) passed: usize,
    /// Tests that failed or were never heard of.
    pub(super) failed: usize,
    release: String,
    took: String,
    boot: Option<Duration>,
    duration: Duration,
    /// Why it is red.
    wrong: Option<String>,
}

impl Verdict {
    /// Green only when the right kernel ran each of the `tests` and said so.
    pub(super) fn of(run: &Run, kernel: Kernel, tests: usize) -> Self {
        let said = run.transcript.summary.clone().unwrap_or_default();
        Self {
            passed: said.passed,
            failed: tests.saturating_sub(said.passed).max(said.failed),
            release: run.transcript.release.clone().unwrap_or_else(|| "no release".to_owned()),
            took: if said.took.is_empty() { "no time".to_owned() } else { said.took },
            boot: run.boot,
            duration: run.duration,
            wrong: wrong(run, kernel, tests),
        }
    }

    pub(super) fn is_green(&self) -> bool {
        self.wrong.is_none()
    }

    /// Why it is red: in one line, then what the tests wrote, then where all of it is.
    pub(super) fn explanation(&self, run: &Run) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", self.wrong.as_deref().unwrap_or("green"));
        if run.transcript.failures.is_empty() {
            push_end(&mut text, run.output.lines().map(str::trim_end));
        }
        for (tests, failure) in by_reason(&run.transcript.failures) {
            let _ = writeln!(text, "---- {} ----", tests.join(", "));
            push_end(&mut text, failure.output.iter().map(String::as_str));
        }
        let _ = write!(text, "full output: {}", run.log.display());
        text
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, release, took, .. } = self;
        write!(f, "{release:<32} {passed} passed, {failed} failed in {took}")?;
        if let Some(boot) = self.boot {
            write!(f, ", booted in {:.1} s", boot.as_secs_f64())?;
        }
        write!(f, ", {:.1} s in all", self.duration.as_secs_f64())
    }
}

fn wrong(run: &Run, kernel: Kernel, tests: usize) -> Option<String> {
    let transcript = &run.transcript;
    if let Some(fatal) = &transcript.fatal {
        return Some(format!("the kernel gave up: {fatal}"));
    }
    if run.timed_out {
        return Some(format!("not done after {:.0} s, and ended", run.duration.as_secs_f64()));
    }
    match &transcript.release {
        Some(release) if kernel.is_release(release) => {}
        Some(release) => return Some(format!("this is kernel {release}, not {kernel}")),
        None => return Some("the machine ended before it had booted".to_owned()),
    }
    let Some(status) = transcript.status else {
        return Some("the tests ended without a status".to_owned());
    };
    let Some(said) = &transcript.summary else {
        return Some(format!("the tests ended with status {status} and without a result"));
    };
    if said.failed > 0 || status != 0 {
        return Some(format!("{} of {tests} tests failed, status {status}", said.failed));
    }
    (said.passed != tests).then(|| format!("{} of {tests} tests ran", said.passed))
}

/// Failures that say the same thing, as one: a refused program fails every test.
fn by_reason(failures: &[Failure]) -> Vec<(Vec<&str>, &Failure)> {
    let mut groups: Vec<(Vec<&str>, &Failure)> = Vec::new();
    for failure in failures {
        match groups.iter_mut().find(|(_, first)| first.reason().eq(failure.reason())) {
            Some((tests, _)) => tests.push(&failure.test),
            None => groups.push((vec![&failure.test], failure)),
        }
    }
    groups
}

/// Appends the last [`SHOWN_LINES`] lines, saying how many are before them.
fn push_end<'a>(text: &mut String, lines: impl Iterator<Item = &'a str>) {
    let lines: Vec<&str> = lines.collect();
    let left_out = lines.len().saturating_sub(SHOWN_LINES);
    if left_out > 0 {
        let _ = writeln!(text, "    ({left_out} lines before these)");
    }
    for line in &lines[left_out..] {
        let _ = writeln!(text, "    {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::console::{Summary, Transcript};
    use super::*;

    fn green() -> Run {
        Run {
            transcript: Transcript {
                release: Some("6.1.0-56-cloud-amd64".to_owned()),
                status: Some(0),
                summary: Some(Summary { passed: 8, failed: 0, took: "1.00s".to_owned() }),
                ..Transcript::default()
            },
            output: "all of it\n".to_owned(),
            log: "vmtest/6.1.log".into(),
            timed_out: false,
            boot: Some(Duration::from_secs(6)),
            duration: Duration::from_secs(9),
        }
    }

    fn judge(run: &Run) -> Verdict {
        Verdict::of(run, "6.1".parse().unwrap(), 8)
    }

    #[test]
    fn everything_has_to_be_right_to_be_green() {
        let verdict = judge(&green());
        assert!(verdict.is_green(), "{verdict:?}");
        assert!(verdict.to_string().contains("8 passed, 0 failed in 1.00s, booted in 6.0 s"), "{verdict}");
        type Damage = fn(&mut Run);
        let damages: [(Damage, &str); 8] = [
            (|run| run.transcript.fatal = Some("[ 1.0] Kernel panic".to_owned()), "Kernel panic"),
            (|run| run.timed_out = true, "not done after 9 s"),
            (|run| run.transcript.release = None, "before it had booted"),
            (|run| run.transcript.release = Some("6.12.1".to_owned()), "this is kernel 6.12.1, not 6.1"),
            (|run| run.transcript.status = None, "without a status"),
            (|run| run.transcript.status = Some(101), "status 101"),
            (|run| run.transcript.summary = None, "without a result"),
            (|run| run.transcript.summary.as_mut().unwrap().passed = 7, "7 of 8 tests ran"),
        ];
        for (damage, said) in damages {
            let mut run = green();
            damage(&mut run);
            let verdict = judge(&run);
            assert!(!verdict.is_green(), "{said}");
            let explanation = verdict.explanation(&run);
            assert!(explanation.contains(said) && explanation.contains("all of it"), "{explanation}");
            assert!(explanation.ends_with("full output: vmtest/6.1.log"), "{explanation}");
        }
    }

    #[test]
    fn tests_that_were_never_heard_of_count_as_failed() {
        let mut run = green();
        run.transcript.summary = None;
        assert_eq!((judge(&run).passed, judge(&run).failed), (0, 8));
    }

    #[test]
    fn the_end_of_each_reason_is_shown_once() {
        let failure = |test: &str, reason: &str| {
            let mut output = vec![format!("thread '{test}' panicked at live.rs:24:23:")];
            output.extend((0..100).map(|n| format!("{n}: (b7) r0 = 0")));
            output.push(reason.to_owned());
            Failure { test: test.to_owned(), output }
        };
        let mut run = green();
        run.transcript.failures =
            vec![failure("a", "bad r1"), failure("b", "bad r1"), failure("c", "bad r2")];
        let explanation = judge(&run).explanation(&run);
        assert_eq!(explanation.matches("bad r1").count(), 1, "{explanation}");
        assert!(explanation.contains("---- a, b ----") && explanation.contains("---- c ----"));
        assert!(explanation.contains("bad r2") && explanation.contains("(62 lines before these)"));
        assert!(!explanation.contains(" 60: "), "{explanation}");
    }
}
