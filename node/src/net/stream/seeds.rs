//! Names of seeds become addresses, again and again: a name may get others, and a cluster that fell apart is healed by
//! whoever its name leads to.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Incoming;
use crate::bell::Sender;
use crate::config::Seed;
use crate::wire::is_reachable;

/// Addresses of one name, at most.
const MOST: usize = 64;

/// A seed and what is known of it.
#[derive(Debug)]
struct Known {
    seed: Seed,
    addresses: BTreeSet<SocketAddr>,
    /// Why it could not be looked up the last time.
    failed: Option<String>,
}

/// Looks the names among `seeds` up now and every `interval`, and tells the gossip thread when that changes anything;
/// addresses of a name that can no longer be looked up stay.
///
/// `like`: only addresses of its IP version can be spoken to.
pub(in crate::net) async fn resolve(
    seeds: Vec<Seed>,
    interval: Duration,
    like: SocketAddr,
    sender: Sender<Incoming>,
) {
    resolve_by(seeds, interval, sender, |name| async move { look_up(&name, like).await }).await;
}

async fn resolve_by<F>(
    seeds: Vec<Seed>,
    interval: Duration,
    sender: Sender<Incoming>,
    look_up: impl Fn(String) -> F,
) where
    F: Future<Output = Result<BTreeSet<SocketAddr>, String>> + Send + 'static,
{
    let mut known: Vec<Known> = seeds.into_iter().map(Known::new).collect();
    loop {
        let mut lookups = JoinSet::new();
        for (i, name) in known.iter().enumerate().filter_map(|(i, known)| Some((i, known.name()?))) {
            let found = look_up(name);
            lookups.spawn(async move { (i, found.await) });
        }
        while let Some(done) = lookups.join_next().await {
            let Ok((i, result)) = done else { continue };
            if known[i].learn(result) && sender.send(Incoming::Seeds(all(&known))).await.is_err() {
                return;
            }
        }
        sleep(interval).await;
    }
}

fn all(known: &[Known]) -> Vec<SocketAddr> {
    let all: BTreeSet<SocketAddr> = known.iter().flat_map(|known| known.addresses.iter().copied()).collect();
    all.into_iter().collect()
}

async fn look_up(name: &str, like: SocketAddr) -> Result<BTreeSet<SocketAddr>, String> {
    let found: Vec<SocketAddr> = lookup_host(name).await.map_err(|error| error.to_string())?.collect();
    let usable = |a: &SocketAddr| a.is_ipv4() == like.is_ipv4() && is_reachable(*a);
    let usable: BTreeSet<SocketAddr> = found.iter().copied().filter(usable).take(MOST).collect();
    if usable.is_empty() {
        let version = if like.is_ipv4() { 4 } else { 6 };
        return Err(format!("none of its {} addresses is a host's IPv{version} address", found.len()));
    }
    Ok(usable)
}

impl Known {
    fn new(seed: Seed) -> Self {
        Self { addresses: seed.address().into_iter().collect(), seed, failed: None }
    }

    fn name(&self) -> Option<String> {
        match &self.seed {
            Seed::Name(name) => Some(name.clone()),
            Seed::Address(_) => None,
        }
    }

    /// Takes in a look-up's result, and tells when it is another than the last time. Are the addresses others now?
    fn learn(&mut self, result: Result<BTreeSet<SocketAddr>, String>) -> bool {
        match result {
            Ok(addresses) => {
                let recovered = self.failed.take().is_some();
                let changed = addresses != self.addresses;
                if changed || recovered {
                    let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                    tracing::info!("seed {}: {}", self.seed, list.join(", "));
                }
                self.addresses = addresses;
                changed
            }
            Err(error) => {
                if self.failed.as_ref() != Some(&error) {
                    let kept = if self.addresses.is_empty() { "" } else { "; its last addresses are kept" };
                    tracing::warn!("seed {} cannot be looked up: {error}{kept}", self.seed);
                    self.failed = Some(error);
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bell::Bell;

    fn set(list: &[&str]) -> BTreeSet<SocketAddr> {
        list.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_change_with_the_name_and_survive_a_failure() {
        let mut known = Known::new(Seed::Name("x:1".into()));
        assert!(!known.learn(Err("no".into())));
        assert!(known.learn(Ok(set(&["10.0.0.1:1", "10.0.0.2:1"]))) && known.failed.is_none());
        assert!(!known.learn(Ok(set(&["10.0.0.2:1", "10.0.0.1:1"]))), "the order means nothing");
        assert!(!known.learn(Err("no".into())));
        let fixed = Known::new(Seed::Address("10.0.0.9:1".parse().unwrap()));
        assert!(fixed.name().is_none());
        assert_eq!(all(&[known, fixed]).len(), 3);
    }

    /// Gossip 10: a cluster that fell apart stays apart if its seeds are looked up only once.
    #[tokio::test(start_paused = true)]
    async fn gossip_10_names_are_looked_up_again_and_a_failure_is_not_the_end() {
        let (sender, mut incoming) = Bell::new().unwrap().channel(1);
        let answers = ["10.0.0.1:7", "", "10.0.0.2:7"].map(str::to_owned);
        let asked = std::sync::Mutex::new(answers.into_iter());
        let look_up = move |_| {
            let answer = asked.lock().unwrap().next();
            async move {
                match answer.as_deref() {
                    Some("") => Err("no".to_owned()),
                    Some(address) => Ok(set(&[address])),
                    None => std::future::pending().await,
                }
            }
        };
        let start = tokio::time::Instant::now();
        let interval = Duration::from_secs(30);
        tokio::spawn(resolve_by(vec![Seed::Name("x:7".into())], interval, sender, look_up));
        for (expected, after) in [("10.0.0.1:7", Duration::ZERO), ("10.0.0.2:7", 2 * interval)] {
            let told = tokio::time::timeout(3 * interval, incoming.recv()).await.expect("looked up again");
            let Some(Incoming::Seeds(found)) = told else { panic!("no seeds") };
            assert_eq!(found, [expected.parse().unwrap()]);
            assert!(start.elapsed() >= after && start.elapsed() < after + interval);
        }
    }

    #[tokio::test]
    async fn localhost_is_looked_up_and_its_other_ip_version_left_out() {
        let (sender, mut incoming) = Bell::new().unwrap().channel(1);
        let like = "127.0.0.1:1".parse().unwrap();
        let seeds = vec![Seed::Name("localhost:7".into()), Seed::Address("10.0.0.9:1".parse().unwrap())];
        let task = tokio::spawn(resolve(seeds, Duration::from_secs(3600), like, sender));
        let Some(Incoming::Seeds(found)) = incoming.recv().await else { panic!("no seeds") };
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), set(&["127.0.0.1:7", "10.0.0.9:1"]));
        task.abort();
        assert!(look_up("nowhere.invalid:1", like).await.is_err());
        assert!(look_up("0.0.0.0:1", like).await.unwrap_err().contains("IPv4"));
    }
}
