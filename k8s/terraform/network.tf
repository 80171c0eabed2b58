locals {
  # Parts of the address space: a sixteenth for nodes, small ones for the ledger and for private endpoints.
  subnets = {
    nodes     = cidrsubnet(var.address_space, 4, 0)
    ledger    = cidrsubnet(var.address_space, 8, 16)
    endpoints = cidrsubnet(var.address_space, 8, 17)
  }
  private_zones = merge(
    {
      blob     = "privatelink.blob.core.windows.net"
      registry = "privatelink.azurecr.io"
      vault    = "privatelink.vaultcore.azure.net"
    },
    contains(var.prepared_brokers, "managed_redis") ? { redis = "privatelink.redis.azure.net" } : {},
    contains(var.prepared_brokers, "service_bus") ? { servicebus = "privatelink.servicebus.windows.net" } : {},
  )
  private_endpoints = merge(
    {
      blob     = { id = azurerm_storage_account.objects.id, part = "blob" }
      registry = { id = azurerm_container_registry.images.id, part = "registry" }
      vault    = { id = azurerm_key_vault.secrets.id, part = "vault" }
    },
    { for redis in azurerm_managed_redis.broker : "redis" => { id = redis.id, part = "redisEnterprise" } },
    { for bus in azurerm_servicebus_namespace.broker : "servicebus" => { id = bus.id, part = "namespace" } },
  )
}

resource "azurerm_virtual_network" "enginehouse" {
  name                = var.name
  resource_group_name = azurerm_resource_group.enginehouse.name
  location            = azurerm_resource_group.enginehouse.location
  address_space       = [var.address_space]
  tags                = var.tags
}

resource "azurerm_subnet" "nodes" {
  name                            = "nodes"
  resource_group_name             = azurerm_resource_group.enginehouse.name
  virtual_network_name            = azurerm_virtual_network.enginehouse.name
  address_prefixes                = [local.subnets.nodes]
  default_outbound_access_enabled = false
}

resource "azurerm_subnet" "endpoints" {
  name                              = "endpoints"
  resource_group_name               = azurerm_resource_group.enginehouse.name
  virtual_network_name              = azurerm_virtual_network.enginehouse.name
  address_prefixes                  = [local.subnets.endpoints]
  default_outbound_access_enabled   = false
  private_endpoint_network_policies = "Enabled"
}

resource "azurerm_subnet" "ledger" {
  name                            = "ledger"
  resource_group_name             = azurerm_resource_group.enginehouse.name
  virtual_network_name            = azurerm_virtual_network.enginehouse.name
  address_prefixes                = [local.subnets.ledger]
  default_outbound_access_enabled = false
  delegation {
    name = "postgresql"
    service_delegation {
      name    = "Microsoft.DBforPostgreSQL/flexibleServers"
      actions = ["Microsoft.Network/virtualNetworks/subnets/join/action"]
    }
  }
}

# Only the virtual network reaches the two: what Azure denies by default. AKS looks after its nodes itself.
resource "azurerm_network_security_group" "private" {
  name                = "${var.name}-private"
  resource_group_name = azurerm_resource_group.enginehouse.name
  location            = azurerm_resource_group.enginehouse.location
  tags                = var.tags
}

resource "azurerm_subnet_network_security_group_association" "private" {
  for_each                  = { endpoints = azurerm_subnet.endpoints.id, ledger = azurerm_subnet.ledger.id }
  subnet_id                 = each.value
  network_security_group_id = azurerm_network_security_group.private.id
}

# Nodes leave by one known address: webhooks and pulled images come from it.
resource "azurerm_public_ip" "outbound" {
  name                = "${var.name}-outbound"
  resource_group_name = azurerm_resource_group.enginehouse.name
  location            = azurerm_resource_group.enginehouse.location
  allocation_method   = "Static"
  sku                 = "Standard"
  zones               = var.zones
  tags                = var.tags
}

resource "azurerm_nat_gateway" "outbound" {
  name                = "${var.name}-outbound"
  resource_group_name = azurerm_resource_group.enginehouse.name
  location            = azurerm_resource_group.enginehouse.location
  sku_name            = "Standard"
  tags                = var.tags
}

resource "azurerm_nat_gateway_public_ip_association" "outbound" {
  nat_gateway_id       = azurerm_nat_gateway.outbound.id
  public_ip_address_id = azurerm_public_ip.outbound.id
}

resource "azurerm_subnet_nat_gateway_association" "nodes" {
  subnet_id      = azurerm_subnet.nodes.id
  nat_gateway_id = azurerm_nat_gateway.outbound.id
}

# What the cluster uses of Azure it reaches by private addresses only.
resource "azurerm_private_dns_zone" "private" {
  for_each            = local.private_zones
  name                = each.value
  resource_group_name = azurerm_resource_group.enginehouse.name
  tags                = var.tags
}

resource "azurerm_private_dns_zone_virtual_network_link" "private" {
  for_each              = azurerm_private_dns_zone.private
  name                  = var.name
  resource_group_name   = azurerm_resource_group.enginehouse.name
  private_dns_zone_name = each.value.name
  virtual_network_id    = azurerm_virtual_network.enginehouse.id
  tags                  = var.tags
}

resource "azurerm_private_endpoint" "private" {
  for_each            = local.private_endpoints
  name                = "${var.name}-${each.key}"
  resource_group_name = azurerm_resource_group.enginehouse.name
  location            = azurerm_resource_group.enginehouse.location
  subnet_id           = azurerm_subnet.endpoints.id
  tags                = var.tags
  private_service_connection {
    name                           = each.key
    private_connection_resource_id = each.value.id
    subresource_names              = [each.value.part]
    is_manual_connection           = false
  }
  private_dns_zone_group {
    name                 = "default"
    private_dns_zone_ids = [azurerm_private_dns_zone.private[each.key].id]
  }
}
