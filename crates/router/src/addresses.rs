//! How many connections each address has open, where that is bounded.
//!
//! One client with many slow connections would take every place there is. Behind a balancer all clients
//! come from a few addresses, so there is no bound unless the operator sets one.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroUsize,
    sync::Arc,
};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// Bits of an IPv6 address that one client can't choose by itself.
const NETWORK: u128 = u128::MAX << 64;

/// Connections by where they come from; as many entries as there are connections at the most.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    open: Mutex<FxHashMap<IpAddr, usize>>,
}

/// A connection's place among those of its address; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    addresses: Arc<Addresses>,
    /// Absent where nobody counts.
    of: Option<IpAddr>,
}

impl Addresses {
    /// A place for a connection from `address`, unless `most` are there already.
    pub(crate) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        most: Option<NonZeroUsize>,
    ) -> Option<Place> {
        let Some(most) = most else {
            return Some(Place { addresses: Arc::clone(self), of: None });
        };
        let of = client(address);
        let mut all = self.open.lock();
        let open = all.entry(of).or_default();
        if most.get() <= *open {
            return None;
        }
        *open += 1;
        Some(Place { addresses: Arc::clone(self), of: Some(of) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(of) = self.of else { return };
        let mut all = self.addresses.open.lock();
        if let Some(open) = all.get_mut(&of) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                all.remove(&of);
            }
        }
    }
}

/// Whom an address stands for.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_places_and_gets_them_back() {
        let addresses = Arc::new(Addresses::default());
        let enter = |from: &str| addresses.enter(from.parse().unwrap(), NonZeroUsize::new(2));
        let kept = (enter("10.0.0.1"), enter("::ffff:10.0.0.1"));
        assert!(kept.0.is_some() && kept.1.is_some() && enter("10.0.0.1").is_none());
        assert!(enter("10.0.0.2").is_some());
        let network = (enter("2001:db8::1"), enter("2001:db8::2"));
        assert!(network.1.is_some() && enter("2001:db8::3").is_none());
        assert!(enter("2001:db8:0:1::1").is_some());
        drop((kept, network));
        assert!(addresses.open.lock().is_empty());
        assert!(enter("10.0.0.1").is_some());
    }

    #[test]
    fn without_a_bound_nothing_is_counted() {
        let addresses = Arc::new(Addresses::default());
        let _kept: Vec<_> =
            (0..9).map(|_| addresses.enter([127, 0, 0, 1].into(), None).unwrap()).collect();
        assert!(addresses.open.lock().is_empty());
    }
}
