//! Which addresses the admin port may make the router connect to.
//!
//! Whoever can register a replica can make the router send requests anywhere it can reach: a cloud's
//! metadata service, another tenant's database, the router's own admin port. So registering is off
//! until the operator says which networks replicas live in, and a name is looked up once, there and
//! then, so that it can't come to mean something else.

use std::{fmt, net::IpAddr, str::FromStr};

/// A range of addresses, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    base: IpAddr,
    prefix: u8,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no network: write 10.0.0.0/8 or fd00::/8");
        let (base, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let widest = if base.is_ipv4() { 32 } else { 128 };
        if widest < prefix { Err(wrong()) } else { Ok(Self { base, prefix }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl Network {
    /// Whether `address` lies within; one that is written as IPv6 but means IPv4 counts as that.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let shift = 32_u32.saturating_sub(u32::from(self.prefix));
                u32::from(base).checked_shr(shift) == u32::from(address).checked_shr(shift)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let shift = 128_u32.saturating_sub(u32::from(self.prefix));
                u128::from(base).checked_shr(shift) == u128::from(address).checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// Whether nothing at `address` can be a replica, whatever network the operator names: it is nobody,
/// everybody, or a link's own, where clouds keep their metadata service.
pub(crate) fn is_never_a_replica(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => {
            it.is_unspecified() || it.is_broadcast() || it.is_multicast() || it.is_link_local()
        }
        IpAddr::V6(it) => it.is_unspecified() || it.is_multicast() || it.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        network.parse::<Network>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_holds_its_own_addresses() {
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "8.8.8.8") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("127.0.0.1/32", "127.0.0.1") && !contains("127.0.0.1/32", "127.0.0.2"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"), "IPv4 in the clothes of IPv6");
        assert!(contains("fd00::/8", "fd12::1") && !contains("fd00::/8", "fe80::1"));
        assert!(contains("::/0", "2001:db8::1"));
    }

    #[test]
    fn what_is_no_network_is_told_what_to_write() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "a/8", "::/129", "10.0.0.0/-1"] {
            assert!(text.parse::<Network>().unwrap_err().contains("write 10.0.0.0/8"), "{text}");
        }
    }

    #[test]
    fn metadata_services_and_nobody_are_never_replicas() {
        for address in
            ["169.254.169.254", "::ffff:169.254.169.254", "0.0.0.0", "::", "fe80::1", "224.0.0.1"]
        {
            assert!(is_never_a_replica(address.parse().unwrap()), "{address}");
        }
        for address in ["10.0.0.1", "127.0.0.1", "2001:db8::1"] {
            assert!(!is_never_a_replica(address.parse().unwrap()), "{address}");
        }
    }
}
