data "azurerm_client_config" "current" {}

locals {
  # Some names are shared with all customers of Azure, and may hold letters and digits only.
  global_name = "${replace(var.name, "-", "")}${var.suffix}"
}

resource "azurerm_resource_group" "enginehouse" {
  name     = var.name
  location = var.location
  tags     = var.tags
}
