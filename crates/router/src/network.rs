//! Which addresses the admin port may make the router connect to.
//!
//! Whoever can register a replica can make the router send requests anywhere it can reach: a cloud's
//! metadata service, another tenant's database, the router's own admin port. So registering is off
//! until the operator says which networks replicas live in, and a name is looked up once, there and
//! then, so that it can't come to mean something else.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    str::FromStr,
    sync::OnceLock,
};

use tokio::net::TcpListener;

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

/// Where clouds keep metadata services that are on no link of their own: of Alibaba, Azure and Oracle's
/// older ones; of AWS and Google.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Whether nothing at `address` can be a replica, whatever network the operator names: it is nobody,
/// everybody, a link's own, where clouds keep their metadata service, or another place for that.
pub(crate) fn is_never_a_replica(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => is_never_v4(it),
        IpAddr::V6(it) => {
            it.is_unspecified()
                || it.is_multicast()
                || it.is_unicast_link_local()
                || METADATA_V6.contains(&it)
                || carried(it).is_some_and(is_never_v4)
        }
    }
}

fn is_never_v4(it: Ipv4Addr) -> bool {
    it.is_unspecified()
        || it.is_broadcast()
        || it.is_multicast()
        || it.is_link_local()
        || METADATA_V4.contains(&it)
}

/// The address of IPv4 that one of IPv6 leads to: by NAT64 (RFC 6052, RFC 8215), by 6to4 (RFC 3056), or as
/// what was once written for one (RFC 4291, section 2.5.5.1).
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = address.segments();
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match (a, b, [c, d, e, f]) {
        (0x64, 0xff9b, [0, 0, 0, 0] | [1, ..]) | (0, 0, [0, 0, 0, 0]) => Some(of(high, low)),
        (0x2002, high, [low, ..]) => Some(of(high, low)),
        _ => None,
    }
}

/// Where a router listens, once its ports are open.
#[derive(Debug, Default)]
pub(crate) struct OwnPorts(OnceLock<Vec<SocketAddr>>);

impl OwnPorts {
    /// Learns them.
    pub(crate) fn learn(&self, listeners: [&TcpListener; 2]) {
        let ports = listeners.iter().filter_map(|it| it.local_addr().ok()).collect();
        let _ = self.0.set(ports);
    }

    /// Whether who connects to `address` reaches one of them.
    pub(crate) fn are_at(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.0.get().into_iter().flatten().any(|own| {
            let is_there = match own.ip().to_canonical() {
                any if any.is_unspecified() => is_of_this_machine(ip),
                own => own == ip,
            };
            own.port() == address.port() && is_there
        })
    }
}

/// Whether this machine has the address: nobody else can listen there.
fn is_of_this_machine(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
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

    #[tokio::test]
    async fn a_router_knows_its_own_ports_by_every_address_of_this_machine() {
        let everywhere = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let here = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = OwnPorts::default();
        own.learn([&everywhere, &here]);
        let port = |it: &TcpListener| it.local_addr().unwrap().port();
        let at = |ip: &str, port: u16| own.are_at(SocketAddr::new(ip.parse().unwrap(), port));
        for ip in ["127.0.0.1", "127.0.0.2", "::ffff:127.0.0.1"] {
            assert!(at(ip, port(&everywhere)), "{ip}");
        }
        assert!(at("127.0.0.1", port(&here)) && at("::ffff:127.0.0.1", port(&here)));
        assert!(!at("127.0.0.2", port(&here)) && !at("192.0.2.1", port(&everywhere)));
        assert!(!at("127.0.0.1", 1));
    }

    #[test]
    fn what_is_no_network_is_told_what_to_write() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "a/8", "::/129", "10.0.0.0/-1"] {
            assert!(text.parse::<Network>().unwrap_err().contains("write 10.0.0.0/8"), "{text}");
        }
    }

    #[test]
    fn metadata_services_and_nobody_are_never_replicas() {
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::169.254.169.254",
            "100.100.100.200",
            "64:ff9b::100.100.100.200",
            "168.63.129.16",
            "fd00:ec2::254",
            "fd20:ce::254",
            "0.0.0.0",
            "::",
            "fe80::1",
            "224.0.0.1",
        ] {
            assert!(is_never_a_replica(address.parse().unwrap()), "{address}");
        }
        for address in [
            "10.0.0.1",
            "127.0.0.1",
            "::1",
            "2001:db8::1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
            "fd00:ec2::255",
        ] {
            assert!(!is_never_a_replica(address.parse().unwrap()), "{address}");
        }
    }
}
