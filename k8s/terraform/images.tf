# Images of the services and of engines. Premium, for a private address.
resource "azurerm_container_registry" "images" {
  name                          = local.global_name
  resource_group_name           = azurerm_resource_group.enginehouse.name
  location                      = azurerm_resource_group.enginehouse.location
  sku                           = "Premium"
  admin_enabled                 = false
  anonymous_pull_enabled        = false
  data_endpoint_enabled         = true
  zone_redundancy_enabled       = length(var.zones) > 1
  public_network_access_enabled = true
  network_rule_bypass_option    = "AzureServices"
  retention_policy_in_days      = 30
  tags                          = var.tags

  network_rule_set = [{
    default_action = "Deny"
    ip_rule        = [for cidr in var.operator_cidrs : { action = "Allow", ip_range = cidr }]
  }]
}

# Nodes pull without a Secret.
resource "azurerm_role_assignment" "nodes_pull" {
  scope                            = azurerm_container_registry.images.id
  role_definition_name             = "AcrPull"
  principal_id                     = azurerm_user_assigned_identity.nodes.principal_id
  skip_service_principal_aad_check = true
}
