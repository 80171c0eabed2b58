# Never in the state: Azure and the vault get it, and nothing else.
ephemeral "random_password" "ledger" {
  length  = 40
  special = false
}

resource "azurerm_private_dns_zone" "ledger" {
  name                = "${var.name}.private.postgres.database.azure.com"
  resource_group_name = azurerm_resource_group.enginehouse.name
  tags                = var.tags
}

resource "azurerm_private_dns_zone_virtual_network_link" "ledger" {
  name                  = var.name
  resource_group_name   = azurerm_resource_group.enginehouse.name
  private_dns_zone_name = azurerm_private_dns_zone.ledger.name
  virtual_network_id    = azurerm_virtual_network.enginehouse.id
  tags                  = var.tags
}

resource "azurerm_postgresql_flexible_server" "ledger" {
  name                              = "${var.name}-${var.suffix}"
  resource_group_name               = azurerm_resource_group.enginehouse.name
  location                          = azurerm_resource_group.enginehouse.location
  version                           = var.ledger.version
  sku_name                          = var.ledger.sku
  storage_mb                        = var.ledger.storage_mb
  auto_grow_enabled                 = true
  backup_retention_days             = var.ledger.backup_retention_days
  geo_redundant_backup_enabled      = var.ledger.geo_redundant_backup
  delegated_subnet_id               = azurerm_subnet.ledger.id
  private_dns_zone_id               = azurerm_private_dns_zone.ledger.id
  public_network_access_enabled     = false
  administrator_login               = "enginehouse"
  administrator_password_wo         = ephemeral.random_password.ledger.result
  administrator_password_wo_version = var.ledger_password_version
  tags                              = var.tags

  authentication {
    password_auth_enabled         = true
    active_directory_auth_enabled = false
  }

  dynamic "high_availability" {
    for_each = var.ledger.standby ? [true] : []
    content {
      mode = length(var.zones) > 1 ? "ZoneRedundant" : "SameZone"
    }
  }

  lifecycle {
    # After a failover the two have changed places.
    ignore_changes  = [zone, high_availability[0].standby_availability_zone]
    prevent_destroy = true
  }

  depends_on = [azurerm_private_dns_zone_virtual_network_link.ledger]
}

resource "azurerm_postgresql_flexible_server_database" "ledger" {
  name      = "enginehouse"
  server_id = azurerm_postgresql_flexible_server.ledger.id
  lifecycle {
    prevent_destroy = true
  }
}
