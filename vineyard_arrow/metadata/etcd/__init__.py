"""etcd as the metadata of a cluster: its client, watch, leases, and throwaway servers."""
