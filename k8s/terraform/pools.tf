# Code of tenants runs on nodes of its own. Only engines bear their taint; runners, which are trusted, stay with the core.
resource "azurerm_kubernetes_cluster_node_pool" "tenants" {
  for_each                    = var.tenant_pools
  name                        = each.key
  temporary_name_for_rotation = "${substr(each.key, 0, 9)}tmp"
  kubernetes_cluster_id       = azurerm_kubernetes_cluster.enginehouse.id
  vm_size                     = each.value.vm_size
  vnet_subnet_id              = azurerm_subnet.nodes.id
  # A GPU or a spot node is where there is one.
  zones                   = each.value.gpu || each.value.spot ? null : var.zones
  os_sku                  = each.value.gpu ? "Ubuntu" : "AzureLinux"
  workload_runtime        = each.value.isolated ? "KataVmIsolation" : "OCIContainer"
  auto_scaling_enabled    = true
  min_count               = each.value.min
  max_count               = each.value.max
  max_pods                = 110
  host_encryption_enabled = true
  node_public_ip_enabled  = false
  priority                = each.value.spot ? "Spot" : "Regular"
  eviction_policy         = each.value.spot ? "Delete" : null
  spot_max_price          = each.value.spot ? -1 : null
  tags                    = var.tags

  node_labels = merge(
    each.value.labels,
    { "enginehouse.dev/pool" = each.key },
    each.value.spot ? { "kubernetes.azure.com/scalesetpriority" = "spot" } : {},
  )
  node_taints = concat(
    ["enginehouse.dev/tenants=true:NoSchedule"],
    each.value.gpu ? ["sku=gpu:NoSchedule"] : [],
    each.value.spot ? ["kubernetes.azure.com/scalesetpriority=spot:NoSchedule"] : [],
  )

  # Spot pools take no settings of upgrades.
  dynamic "upgrade_settings" {
    for_each = each.value.spot ? [] : [true]
    content {
      max_surge                = "33%"
      drain_timeout_in_minutes = 60
    }
  }

  lifecycle {
    ignore_changes = [node_count, orchestrator_version]
  }
}
