//! What of the fleet a reader may see.

use crate::access::Reach;
use crate::fleet::Fleet;

/// The fleet as a reader with that reach sees it. What belongs to no cluster, such
/// as replicas and findings about the whole, names other tenants' things, and is
/// for those who may see all.
pub fn seen(mut fleet: Fleet, reach: &Reach) -> Fleet {
    if reach.is_whole() {
        return fleet;
    }
    fleet.clusters.retain(|c| reach.sees(&c.cluster));
    fleet
        .findings
        .retain(|f| f.cluster.as_ref().is_some_and(|cluster| reach.sees(cluster)));
    fleet.replicas.clear();
    if let Some(trouble) = &mut fleet.leading.trouble {
        "it cannot be said who leads".clone_into(&mut trouble.why);
    }
    fleet
}
