# Who did what: Azure's own logs, beside the audit log of Enginehouse (docs/audit.md).
resource "azurerm_log_analytics_workspace" "audit" {
  name                         = "${var.name}-audit"
  resource_group_name          = azurerm_resource_group.enginehouse.name
  location                     = azurerm_resource_group.enginehouse.location
  sku                          = "PerGB2018"
  retention_in_days            = var.log_retention_days
  local_authentication_enabled = false
  tags                         = var.tags
}

locals {
  audited = merge(
    {
      ledger   = azurerm_postgresql_flexible_server.ledger.id
      objects  = "${azurerm_storage_account.objects.id}/blobServices/default"
      registry = azurerm_container_registry.images.id
      vault    = azurerm_key_vault.secrets.id
    },
    { for bus in azurerm_servicebus_namespace.broker : "servicebus" => bus.id },
  )
}

resource "azurerm_monitor_diagnostic_setting" "audit" {
  for_each                   = local.audited
  name                       = "audit"
  target_resource_id         = each.value
  log_analytics_workspace_id = azurerm_log_analytics_workspace.audit.id
  enabled_log {
    category_group = "audit"
  }
}

# Without reads, which would be most of it.
resource "azurerm_monitor_diagnostic_setting" "cluster" {
  name                           = "audit"
  target_resource_id             = azurerm_kubernetes_cluster.enginehouse.id
  log_analytics_workspace_id     = azurerm_log_analytics_workspace.audit.id
  log_analytics_destination_type = "Dedicated"
  dynamic "enabled_log" {
    for_each = ["kube-audit-admin", "guard", "kube-apiserver", "cluster-autoscaler"]
    content {
      category = enabled_log.value
    }
  }
}
