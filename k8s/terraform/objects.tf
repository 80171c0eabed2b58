# Inputs and outputs that are too large for a message. Clients and runners reach them by URLs that the gateway signs.
resource "azurerm_storage_account" "objects" {
  name                             = local.global_name
  resource_group_name              = azurerm_resource_group.enginehouse.name
  location                         = azurerm_resource_group.enginehouse.location
  account_kind                     = "StorageV2"
  account_tier                     = "Standard"
  account_replication_type         = var.storage_replication
  min_tls_version                  = "TLS1_2"
  https_traffic_only_enabled       = true
  shared_access_key_enabled        = false
  local_user_enabled               = false
  default_to_oauth_authentication  = true
  allow_nested_items_to_be_public  = false
  cross_tenant_replication_enabled = false
  public_network_access_enabled    = var.objects_open_to_clients
  tags                             = var.tags

  network_rules {
    default_action = var.objects_open_to_clients ? "Allow" : "Deny"
    bypass         = ["AzureServices"]
  }

  blob_properties {
    delete_retention_policy {
      days = 7
    }
    container_delete_retention_policy {
      days = 7
    }
  }
}

resource "azurerm_storage_container" "objects" {
  name                  = "objects"
  storage_account_id    = azurerm_storage_account.objects.id
  container_access_type = "private"
}
