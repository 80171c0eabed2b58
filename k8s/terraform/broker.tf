# Today's broker is Redis in the cluster (k8s/trial/redis.yaml, on a disk of Azure's), because the registry gives each engine
# a login of its own there (ACL SETUSER). What is made here waits for components that use it: README.md says what is missing.

resource "azurerm_managed_redis" "broker" {
  count                     = contains(var.prepared_brokers, "managed_redis") ? 1 : 0
  name                      = "${var.name}-${var.suffix}"
  resource_group_name       = azurerm_resource_group.enginehouse.name
  location                  = azurerm_resource_group.enginehouse.location
  sku_name                  = var.managed_redis_sku
  high_availability_enabled = true
  public_network_access     = "Disabled"
  tags                      = var.tags
  default_database {
    client_protocol = "Encrypted"
    # One endpoint, as clients see it that know nothing of clusters.
    clustering_policy = "EnterpriseCluster"
    # A stream of jobs is no cache.
    eviction_policy                               = "NoEviction"
    access_keys_authentication_enabled            = false
    persistence_append_only_file_backup_frequency = "1s"
  }
}

resource "azurerm_servicebus_namespace" "broker" {
  count                         = contains(var.prepared_brokers, "service_bus") ? 1 : 0
  name                          = "${var.name}-${var.suffix}"
  resource_group_name           = azurerm_resource_group.enginehouse.name
  location                      = azurerm_resource_group.enginehouse.location
  sku                           = "Premium"
  capacity                      = var.service_bus_units
  premium_messaging_partitions  = 1
  minimum_tls_version           = "1.2"
  local_auth_enabled            = false
  public_network_access_enabled = false
  tags                          = var.tags
}
